"""The shell on diffusers folders: what is copied, linked, left out, and never written over."""

import os

import pytest
import torch
from diff_quickfix.quickfix import load_edit
from model_files import LAYOUTS, config, laid_out, write
from safetensors.torch import load_file
from shell_models import HEADS, OUT_PROJ, VAN_GOGH, WIDTH, contents


@pytest.fixture
def folder(tmp_path, weights, monkeypatch):
    """A diffusers folder as a hub's cache has it: some files are symbolic links, some weights are there twice."""
    monkeypatch.chdir(tmp_path)
    here, blobs = tmp_path / "model", tmp_path / "blobs"
    for name in ("text_encoder", "unet/inner", "tokenizer"):
        (here / name).mkdir(parents=True)
    blobs.mkdir()
    write(blobs / "a", laid_out(weights, "bare"))
    (here / "text_encoder" / "model.safetensors").symlink_to("../../blobs/a")
    full = {name: value.float() for name, value in weights.items()}
    write(here / "text_encoder" / "model.fp32.safetensors", laid_out(full, "bare"))
    (here / "text_encoder" / "config.json").write_text(config(WIDTH, HEADS))
    (here / "text_encoder" / "pytorch_model.bin").write_bytes(b"pickle")
    (blobs / "b").write_bytes(b"unet")
    (here / "unet" / "inner" / "weights.safetensors").symlink_to("../../../blobs/b")
    (here / "unet" / "again").symlink_to("..")
    (here / "model_index.json").write_text("{}")
    return here


def test_no_file_of_a_model_folder_is_written_over(folder, shell, monkeypatch):
    monkeypatch.setattr("diff_quickfix.cli.models.compute_edit", lambda *a, **k: pytest.fail("computed first"))
    before = contents(folder)
    inside = [folder / name for name in sorted(before) if name.endswith(".safetensors")]
    blobs = sorted(path.resolve() for path in inside)
    assert len(inside) >= 3
    for path in {*inside, *blobs}:
        name = path if path.suffix else path.rename(path.with_suffix(".safetensors"))
        if name != path:
            path.symlink_to(name.name)
        for option in ("--out", "--apply"):
            code, _, err = shell("edit", str(folder), *VAN_GOGH, option, str(name), "--overwrite")
            assert code == 1 and "is a file of the model itself" in err, name
    assert contents(folder) == before


@pytest.mark.parametrize("options", [(), ("--link",)])
def test_a_folder_is_copied_whole_with_the_edit_in_all_its_weights(folder, shell, tmp_path, weights, options):
    before = contents(folder)
    code, out, err = shell("edit", "model", *VAN_GOGH, "--apply", "fixed", "--out", "fix.safetensors", *options)
    assert code == 0, err
    copied = contents(tmp_path / "fixed")
    assert contents(folder) == before
    patched = {"text_encoder/model.safetensors", "text_encoder/model.fp32.safetensors"}
    assert copied.keys() | {"text_encoder/pytorch_model.bin"} == before.keys()
    assert {name for name in copied if copied[name] != before[name]} == patched
    delta, name = load_edit("fix.safetensors").delta(), LAYOUTS["bare"][0] + OUT_PROJ.removeprefix(LAYOUTS["sd1"][0])
    for file in patched:
        old, new = (load_file(root / file) for root in (folder, tmp_path / "fixed"))
        assert torch.equal(new[name], (old[name].float() + delta).to(old[name].dtype))
        assert all(torch.equal(new[other], old[other]) for other in old if other != name)
    other = tmp_path / "fixed" / "unet" / "inner" / "weights.safetensors"
    assert other.samefile(tmp_path / "blobs" / "b") == bool(options) and not other.is_symlink()
    own, rest = (sum(len(copied[file]) for file in files) for files in (patched, copied.keys() - patched))
    assert (f"({own:,} bytes, and {rest:,} shared" if options else f"({own + rest:,} bytes)") in out
    assert "left out" in out and "text_encoder/pytorch_model.bin" in out
    assert shell("report", "fixed", "fix.safetensors")[1].count("not the one") == 1


def test_a_folder_is_copied_where_there_are_no_links(folder, shell, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    assert shell("edit", "model", *VAN_GOGH, "--apply", "fixed", "--link")[0] == 0
    copy = tmp_path / "fixed" / "unet" / "inner" / "weights.safetensors"
    assert copy.read_bytes() == b"unet" and not copy.samefile(tmp_path / "blobs" / "b")


def test_a_folders_text_encoder_alone(folder, shell, tmp_path):
    code, out, _ = shell("edit", "model", *VAN_GOGH, "--apply", "alone.safetensors")
    assert code == 0 and "the text encoder alone; name a folder" in out
    assert load_file("alone.safetensors").keys() == load_file(folder / "text_encoder" / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("model", "exists already"),
        ("taken", "exists already"),
        ("model/inside", "lies in model itself"),
        ("nowhere/copy", "There is no folder"),
    ],
)
def test_no_folder_is_written_over(folder, shell, tmp_path, target, message):
    (tmp_path / "taken").mkdir()
    before = contents(tmp_path)
    code, _, err = shell("edit", "model", *VAN_GOGH, "--apply", target, "--overwrite")
    assert code == 1 and message in err and contents(tmp_path) == before


def test_an_interrupted_copy_leaves_no_folder(folder, shell, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("diff_quickfix.cli.output.progress", lambda *_: interrupt)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert shell("edit", "model", *VAN_GOGH, "--apply", "fixed")[0] == 130
    assert sorted(path.name for path in tmp_path.iterdir()) == before
