"""The nodes with ComfyUI's dynamic VRAM: weights stay in memory, and come to the device one by one."""

import pytest
import torch
from conditioning import encode
from dynamic import use_dynamic_vram
from loading import PROMPT, with_lora
from runs import sweep_inputs

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture
def dynamic(accelerator, monkeypatch, nodes):
    """Shapes as (model, clip, vae)."""
    use_dynamic_vram(monkeypatch)
    models = nodes["DiffQuickFix_LoadShapesDemo"].execute().args
    assert all(one.is_dynamic() for one in (models[0], models[1].patcher))
    return models


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_an_edit_is_that_of_the_cpu_and_acts(dynamic, shapes, edit, lora, used):
    clip, own = (with_lora(one) if lora else one for one in (dynamic[1], shapes[1]))
    if used:
        torch.testing.assert_close(encode(clip, PROMPT), encode(own, PROMPT), atol=2e-5, rtol=1e-4)
    found, wanted = edit(clip), edit(own)
    assert (found[1].delta() - wanted[1].delta()).norm() <= 1e-4 * wanted[1].delta().norm()
    assert found[1].report.storage == wanted[1].report.storage
    for one, other in ((found[0], wanted[0]), (edit(found[0])[0], edit(wanted[0])[0]), (clip, own)):
        torch.testing.assert_close(encode(one, PROMPT), encode(other, PROMPT), atol=5e-5, rtol=1e-4)


def test_weights_count_in_the_models_type_and_not_in_the_files(accelerator, monkeypatch, pack, edit):
    """The file is fp32, the model fp16: that is what it computes with, and what an edit is rounded to."""
    from pack_under_test.nodes.host import shapes as load

    whole = edit(load.load_clip(torch.float16))[1]
    use_dynamic_vram(monkeypatch)
    clip = load.load_clip(torch.float16)
    assert clip.patcher.is_dynamic()
    change = edit(clip)[1]
    assert change.base == whole.base
    assert (change.delta() - whole.delta()).norm() <= 1e-4 * whole.delta().norm()
    assert change.report.storage == pytest.approx(whole.report.storage, abs=1e-3)
    assert change.report.storage.error > 1e-4


@pytest.mark.parametrize("name", ["Text", "UNet"])
def test_a_trace_is_that_of_the_cpu(dynamic, shapes, run, name):
    values = (
        {"sites": "text.0.*", "kind": "self_attn", "controls": 1}
        if name == "Text"
        else {"sites": "unet.middle.*", "kind": "resnet", "controls": 1}
    )
    more = {"columns": "places"} if name == "Text" else {"step_windows": 1, "branch": "cond"}
    found, wanted = (
        run(
            f"CausalTrace{name}", **sweep_inputs(models, latent={"samples": torch.zeros(1, 4, 8, 8)}, **values), **more
        ).args[0]
        for models in (dynamic, shapes)
    )
    for part in ("clean", "corrupted", "restored"):
        torch.testing.assert_close(getattr(found, part), getattr(wanted, part), atol=1e-4, rtol=1e-3)
