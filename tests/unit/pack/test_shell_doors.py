"""The shell on image models: SDXL's and Stable Diffusion's doors, in checkpoints and in diffusers folders."""

import json
from pathlib import Path

import pytest
import torch
from diff_quickfix import remove_concept
from diff_quickfix.quickfix import GUARDED, TensorFile, load_edit, read_edit_file
from model_files import config, laid_out, tower_weights, used_tokens, write
from safetensors.torch import load_file
from small_pipelines import sdxl

VAN_GOGH = ("--edit", "van gogh -> painting")
PREFIX = "model.diffusion_model."
BLOCKS = ("input_blocks.1.1", "middle_block.1", "output_blocks.3.1")


@pytest.fixture(scope="module")
def sdxl_pipe(comfyui):
    return sdxl()


@pytest.fixture
def folder(sdxl_pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sdxl_pipe.save_pretrained("model")
    return "model"


@pytest.fixture
def checkpoint(tokenizer, tmp_path, monkeypatch):
    """Stable Diffusion 1.x in fp16, of which the UNet has little more than its doors."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(3)
    unet = {"input_blocks.0.0.weight": (8, 4, 3, 3)}
    unet |= {f"{block}.transformer_blocks.0.attn2.to_{part}.weight": (8, 32) for block in BLOCKS for part in "kv"}
    tensors = {PREFIX + name: torch.randn(shape, generator=generator).half() for name, shape in unet.items()}
    text = laid_out(tower_weights(32, 2, used_tokens(tokenizer, "van gogh", "painting"), torch.float16), "sd1")
    (tmp_path / "config.json").write_text(config(32, 4))
    write(tmp_path / "sd1.safetensors", tensors | text)
    return "sd1.safetensors"


def test_sdxl_is_edited_at_its_doors(folder, shell, sdxl_pipe, tmp_path, monkeypatch):
    """Without a word about it: as the same pipeline in Python; and the copy of the folder holds the edit alone.

    Of the UNet nothing is read but the header and what is edited, once for the edit and once for the copy.
    """
    ranges, read = [], TensorFile._read
    monkeypatch.setattr(TensorFile, "_read", lambda *a: ranges.append((a[0].path.parent.name, *a[2:4])) or read(*a))
    before = {path: path.read_bytes() for path in sorted_files("model")}
    options = ("--out", "fix.safetensors", "--naming", "diffusers", "--apply", "fixed")
    code, out, err = shell("edit", folder, *VAN_GOGH, *options)
    assert code == 0, err
    assert "edited: the image model (SDXL" in out and "pooled vector" in out and "rank 4 at 5 doors" in out
    unet = TensorFile("model/unet/diffusion_pytorch_model.safetensors")
    touched = {(start, start + length) for part, start, length in ranges if part == "unet"}
    found, wanted = load_edit("fix.safetensors"), remove_concept(sdxl_pipe, "van gogh", "painting")
    places = [unet.places[update.door.weight] for update in found.doors]
    assert touched == {(place.start, place.end) for place in places}
    assert found.concepts == wanted.concepts and found.settings == wanted.settings and found.base == wanted.base
    assert [update.door.name for update in found.doors] == [update.door.name for update in wanted.doors]
    assert {path: path.read_bytes() for path in sorted_files("model")} == before
    unet = "unet/diffusion_pytorch_model.safetensors"
    old, new = load_file(f"model/{unet}"), load_file(f"fixed/{unet}")
    assert all((old[name] == new[name]).all() for name in old.keys() - {u.door.weight for u in found.doors})
    for one, other in zip(found.doors, wanted.doors, strict=True):
        ours, theirs = (edit.factors(update) for edit, update in ((found, one), (wanted, other)))
        delta = ours.up @ ours.down
        assert float((delta - theirs.up @ theirs.down).norm()) < 1e-3 * float(delta.norm())
        torch.testing.assert_close(new[one.door.weight], old[one.door.weight] + delta, rtol=0, atol=1e-5)
    copies = {path: tmp_path / "fixed" / path.relative_to("model") for path in before}
    changed = [path for path, copy in copies.items() if copy.read_bytes() != before[path]]
    assert [path.relative_to("model").as_posix() for path in changed] == [unet]


def sorted_files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def test_a_checkpoint_at_its_doors(checkpoint, shell, tmp_path):
    before = (tmp_path / checkpoint).read_bytes()
    options = ("--out", "fix.safetensors", "--apply", "fixed.safetensors", "--strength", "0.5", "--json")
    code, out, err = shell("edit", checkpoint, *VAN_GOGH, "--way", "image-model", *options)
    assert code == 0, err
    said, edit = json.loads(out), load_edit("fix.safetensors")
    values = [f"{PREFIX}{block}.transformer_blocks.0.attn2.to_v.weight" for block in BLOCKS]
    assert said["tensors"] == values and said["encoder"] == "sd1" and said["report"]["doors"] == 3
    old, new = load_file(checkpoint), load_file("fixed.safetensors")
    for name, value in old.items():
        wanted = value
        if name in values:
            wanted = (value.float() + 0.5 * value.float() @ (edit.up @ edit.down)).half()
            assert not torch.equal(value, new[name])
        torch.testing.assert_close(new[name], wanted, rtol=0, atol=2e-3 if name in values else 0)
    assert (tmp_path / checkpoint).read_bytes() == before
    # kohya's names of Stable Diffusion 1.x are diffusers' paths.
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v.alpha" in load_file("fix.safetensors")
    code, out, _ = shell("inspect", "fix.safetensors")
    assert code == 0 and "image model of Stable Diffusion 1.x" in out and "at 3 doors (3 value)" in out
    code, out, _ = shell("report", checkpoint, "fix.safetensors")
    assert code == 0 and "model: the one that" in out
    assert "model: not the one" in shell("report", "fixed.safetensors", "fix.safetensors")[1]
    change = ("change", checkpoint, "fix.safetensors", "--add", "painting -> photo", "--out", "more.safetensors")
    assert shell(*change)[0] == 0
    again = load_edit("more.safetensors")
    assert [update.door for update in again.doors] == [update.door for update in edit.doors]
    assert len(again.concepts) == 2 and again.settings == edit.settings


def test_the_way_is_as_asked(checkpoint, shell):
    """The text encoder where nothing is said; what is chosen for a kind with auto; a pattern means the image model."""
    assert shell("edit", checkpoint, *VAN_GOGH, "--out", "a.safetensors")[0] == 0
    first = load_edit("a.safetensors")
    assert not first.of_states and first.settings == GUARDED
    code, out, _ = shell("edit", checkpoint, *VAN_GOGH, "--way", "auto", "--out", "b.safetensors")
    assert code == 0 and "edited: the image model" in out and load_edit("b.safetensors").of_states
    object_ = ("edit", checkpoint, "--edit", "van gogh -> painting", "--kind", "object")
    code, out, _ = shell(*object_, "--way", "auto", "--out", "c.safetensors")
    assert code == 0 and load_edit("c.safetensors").of_states == ("edited: the image model" in out)
    pattern = ("--doors", "middle_block.*", "--out", "d.safetensors", "--positions", "later", "--lambda", "0.5")
    assert shell("edit", checkpoint, *VAN_GOGH, *pattern)[0] == 0
    edit = load_edit("d.safetensors")
    assert [update.door.kind for update in edit.doors] == ["key", "value"]
    assert edit.settings.lam == 0.5 and edit.settings.positions == "last subject token and later"
    assert shell("edit", checkpoint, *VAN_GOGH, "--out", "e.safetensors", "--naming", "diffusers")[0] == 0
    assert read_edit_file("e.safetensors").naming == "diffusers"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--doors", "middle_block.*", "--layer", "1"), 1, "--layer 1 is about text encoders"),
        (("--doors", "middle_block.*", "--preset", "paper"), 1, "--preset paper is about text encoders"),
        (("--way", "image-model", "--energy", "0.9"), 1, "--energy 0.9 is about text encoders"),
        (("--doors", "nothing.*"), 1, "No door of Stable Diffusion 1.x fits"),
        (("--doors", "input_blocks.0.0"), 1, "cannot be edited"),
        (("--doors", "*", "--way", "text-encoder"), 2, "--doors is about the image model"),
        (("--doors", "*", "--encoder", "clip_l"), 2, "--encoder is about the text encoder"),
    ],
)
def test_what_a_way_does_not_have_is_refused_before_work(checkpoint, shell, monkeypatch, options, code, message):
    for name in ("compute_edit", "edit_doors"):
        monkeypatch.setattr(f"diff_quickfix.cli.models.{name}", lambda *a, **k: pytest.fail("computed first"))
    found, _, err = shell("edit", checkpoint, *VAN_GOGH, *options)
    assert (found, message in err) == (code, True), err


@pytest.mark.parametrize("way", ["image-model", "text-encoder"])
def test_a_list_of_names_guards_where_it_is_chosen(checkpoint, shell, way):
    """The edit is another one, and its report and its file say which list guarded."""
    edits = {}
    for breadth in ("none", "short"):
        code, out, err = shell(
            "edit", checkpoint, *VAN_GOGH, "--way", way, "--breadth", breadth, "--out", f"{breadth}.safetensors"
        )
        assert code == 0, err
        edits[breadth] = load_edit(f"{breadth}.safetensors")
        told = edits[breadth].report.breadth
        assert (told is not None) == ("guarded by breadth: " in out) == (breadth == "short")
    assert f"{told.captions} captions of {told.names} names" in out and told.left_out == ("Vincent van Gogh",)
    assert edits["short"].settings.breadth == "short-1" and not edits["none"].settings.breadth
    assert not torch.allclose(edits["short"].delta(), edits["none"].delta(), rtol=1e-3)
    code, out, err = shell("edit", checkpoint, *VAN_GOGH, "--breadth", "all")
    assert code == 2 and "broad" in err
