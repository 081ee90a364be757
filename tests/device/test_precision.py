"""Weights kept in half precision, patches added in fp16, an image model that computes in half precision."""

import pytest
import torch
from conditioning import encode
from loading import PROMPT, has_memory
from pretended import DEVICE
from runs import sweep_inputs

pytestmark = pytest.mark.usefixtures("inference")
KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.out_proj.weight"
KINDS = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture
def load(pack):
    from pack_under_test.nodes.host import shapes

    return shapes


def module_weight(clip):
    """The edited weight as it lies in the module."""
    import comfy.utils

    return comfy.utils.get_attr(clip.cond_stage_model, KEY).cpu()


@pytest.mark.parametrize("arithmetic", [torch.float32, torch.float16])
@pytest.mark.parametrize("kept", KINDS)
def test_the_report_tells_what_comfyuis_patch_leaves_of_an_edit(accelerator, load, edit, kept, arithmetic):
    accelerator.LORA_COMPUTE_DTYPES[DEVICE] = arithmetic
    clip = load.load_clip(kept)
    unused = edit(clip)[1]
    encode(clip, PROMPT)
    base = module_weight(clip)
    edited, change, _ = edit(clip)
    assert (change.delta() - unused.delta()).norm() <= 1e-4 * unused.delta().norm()
    encode(edited, PROMPT)
    patched, delta, told = module_weight(edited), change.delta(), change.report.storage
    assert patched.dtype == base.dtype == kept
    realised = patched.float() - base.float()
    assert told.error == pytest.approx(float((realised - delta).norm() / delta.norm()), rel=0.02, abs=1e-4)
    assert told.realised == pytest.approx(float((realised * delta).sum() / delta.square().sum()), abs=1e-3)
    assert told.swallowed == pytest.approx(float((realised == 0)[delta != 0].float().mean()), abs=5e-3)
    if torch.float32 not in (kept, arithmetic):
        assert told.error > 1e-4, "the test would see no rounding"
    if kept == arithmetic == torch.float32:
        assert told == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("kept", [torch.float16, torch.bfloat16])
def test_an_edit_of_a_half_precision_encoder_acts_though_parts_of_it_are_not_loaded(
    accelerator, load, edit, monkeypatch, kept
):
    clip = load.load_clip(kept)
    plain, whole = encode(clip, PROMPT), encode(edit(clip)[0], PROMPT)
    accelerator.unload_all_models()
    has_memory(monkeypatch, 14_000_000)
    partly = encode(edit(clip)[0], PROMPT)
    assert (partly - whole).norm() < 0.05 * (whole - plain).norm()


def test_weights_in_plain_fp8_are_edited(load, edit):
    """On the CPU: ComfyUI rounds to fp8 with random numbers of the device, and the pretended one has none."""
    clip = load.load_clip(torch.float8_e4m3fn)
    encode(clip, PROMPT)
    edited, change, _ = edit(clip)
    wanted = edit(load.load_clip())[1]
    assert (change.delta() - wanted.delta()).norm() < 0.5 * wanted.delta().norm()
    assert change.report.storage.error > 0.01
    assert not torch.equal(encode(edited, PROMPT), encode(clip, PROMPT))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_trace_in_half_precision_says_what_the_one_in_fp32_says(shapes, load, run, kind):
    halves = load.load_model(kind), load.load_clip(kind), shapes[2]
    values = {"sites": "text.0.*", "kind": "hidden", "controls": 0, "steps": 1, "cfg": 1.0}
    found, wanted = (
        run(
            "CausalTraceText",
            **sweep_inputs(models, latent={"samples": torch.zeros(1, 4, 8, 8)}, **values),
            columns="places",
        ).args[0]
        for models in (halves, shapes)
    )
    size = wanted.corrupted.abs().mean()
    for name in ("clean", "corrupted", "restored"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert one.dtype == torch.float32 and one.isfinite().all()
        assert (one - other).abs().mean() < (0.01 if kind == torch.float16 else 0.1) * size
