"""The shell with --device: what it writes is what the CPU writes, with fp64 on the device and without."""

import json

import pretended
import pytest
import row_models
import torch
from diff_quickfix.cli import main
from diff_quickfix.cli.device import device_named
from diff_quickfix.quickfix import load_edit
from model_files import config, laid_out, tower_weights, used_tokens, write
from pretended import DEVICE, Pretended
from safetensors.torch import save_file
from torch.utils import _pytree

pytestmark = pytest.mark.newest
VAN_GOGH = ("--edit", "van gogh -> painting", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def sd1(folder, tokenizer):
    generator = torch.Generator().manual_seed(3)
    unet = {"input_blocks.0.0.weight": (8, 4, 3, 3)}
    unet |= {f"middle_block.1.transformer_blocks.0.attn2.to_{part}.weight": (8, 32) for part in "kv"}
    tensors = {f"model.diffusion_model.{k}": torch.randn(s, generator=generator).half() for k, s in unet.items()}
    text = laid_out(tower_weights(32, 2, used_tokens(tokenizer, "van gogh", "painting"), torch.float16), "sd1")
    (folder / "sd1").mkdir()
    (folder / "sd1" / "config.json").write_text(config(32, 4))
    return (str(write(folder / "sd1" / "m.safetensors", tensors | text)),)


@pytest.fixture(scope="module")
def z_image(folder):
    save_file(row_models.tensors("z-image"), folder / "z.safetensors")
    save_file(row_models.named(row_models.qwen(), "model."), folder / "qwen.safetensors")
    return str(folder / "z.safetensors"), "--text-encoder", str(folder / "qwen.safetensors")


@pytest.fixture(scope="module")
def flux(folder):
    (folder / "flux").mkdir()
    parts = row_models.named(row_models.t5(), "text_encoders.t5xxl.transformer.")
    parts |= {f"model.diffusion_model.{key}": value for key, value in row_models.tensors("flux").items()}
    save_file(parts | row_models.named(row_models.clip(), "text_encoders.clip_l."), folder / "flux" / "m.safetensors")
    (folder / "flux" / "config.json").write_text(json.dumps({"hidden_size": 16, "num_attention_heads": 4}))
    return (str(folder / "flux" / "m.safetensors"),)


@pytest.fixture(params=[True, False], ids=["fp64", "no fp64"])
def device(request, monkeypatch):
    """The shell takes the device for a card; without fp64, no tensor of that type may be made there."""
    monkeypatch.setattr(
        "diff_quickfix.cli.models.device_named", lambda name: DEVICE if name == "cuda" else torch.device(name)
    )
    if request.param:
        monkeypatch.setattr("diff_quickfix.quickfix.encoder.tower._WITH_FP64", ("cpu", DEVICE.type))
        return True
    run = pretended._run

    def checked(function, args, kwargs):
        out = run(function, args, kwargs)
        found = [one for one in _pytree.tree_leaves(out) if isinstance(one, Pretended)]
        if any(one.dtype == torch.float64 for one in found):
            raise TypeError(f"the device has no float64 ({function})")
        return out

    monkeypatch.setattr(pretended, "_run", checked)
    return False


@pytest.mark.parametrize(
    ("model", "options"),
    [("sd1", ()), ("sd1", ("--way", "image-model")), ("z_image", ()), ("flux", ())],
    ids=["text encoder", "doors", "Qwen", "T5 and CLIP"],
)
def test_an_edit_is_that_of_the_cpu(model, options, request, device, traffic, comfyui, tmp_path, capsys):
    arguments = (
        *request.getfixturevalue(model),
        *options,
        "--tokenizer",
        str(comfyui),
        *VAN_GOGH,
        "--naming",
        "comfyui",
    )
    edits = []
    for name in ("cpu", "cuda"):
        traffic.up = 0
        path = tmp_path / f"{name}.safetensors"
        assert main(["edit", *arguments, "--device", name, "--out", str(path)]) == 0, capsys.readouterr().err
        edits.append(load_edit(path))
    wanted, found = edits
    # Without fp64 the text encoder's own edit is computed on the CPU; states come from the device all the same.
    assert (traffic.up > 0) == (device or wanted.of_states)
    assert found.base == wanted.base and found.settings == wanted.settings
    updates = [(wanted, found)]
    updates += [(wanted.factors(one), found.factors(two)) for one, two in zip(wanted.doors, found.doors, strict=True)]
    for one, other in updates:
        delta = one.up @ one.down
        assert float((other.up @ other.down - delta).norm()) <= 1e-3 * float(delta.norm())


def test_a_device_that_is_not_there_is_refused(sd1, comfyui, capsys, monkeypatch):
    monkeypatch.setattr("diff_quickfix.cli.models.compute_edit", lambda *a, **k: pytest.fail("computed first"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name, said in (
        ("cuda", "finds no such device here"),
        ("mps", "finds no such device"),
        ("tpu9", "expected one of"),
    ):
        assert main(["edit", *sd1, *VAN_GOGH, "--tokenizer", str(comfyui), "--device", name]) == 1
        assert said in capsys.readouterr().err
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_named("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ValueError, match="there are 2"):
        device_named("cuda:2")
