"""The shell on image models that read other encoders than CLIP: in one file, in two, and in diffusers folders."""

import json

import pytest
import row_models
import torch
from diff_quickfix.quickfix import load_edit, open_image_model
from diff_quickfix.quickfix.solver.low_rank import share_reached
from diff_quickfix.text.captions import expand
from safetensors.torch import load_file, save_file

VAN_GOGH = ("--edit", "van gogh -> painting")


@pytest.fixture(scope="module")
def z_image(tmp_path_factory):
    """An image model, and its text encoder in another file."""
    folder = tmp_path_factory.mktemp("z-image")
    save_file(
        {f"model.diffusion_model.{k}": v for k, v in row_models.tensors("z-image").items()}, folder / "z.safetensors"
    )
    save_file(row_models.named(row_models.qwen(), "model."), folder / "qwen.safetensors")
    return folder


def test_z_image_with_its_text_encoder_in_another_file(z_image, shell, comfyui, tmp_path):
    """The door gives for a state of the source what it gave for the mapped one; nothing else of the file changes."""
    model, out, fixed = (
        str(path) for path in (z_image / "z.safetensors", tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    )
    files = ("--text-encoder", str(z_image / "qwen.safetensors"), "--tokenizer", str(comfyui))
    code, said, err = shell("edit", model, *VAN_GOGH, *files, "--out", out, "--apply", fixed, "--naming", "comfyui")
    assert code == 0, err
    assert "edited: the image model (Z-Image" in said and "at 1 door" in said
    edit = load_edit(out)
    assert edit.encoder == "z-image" and [update.door.name for update in edit.doors] == ["cap_embedder.1"]
    before, after = load_file(model), load_file(fixed)
    name = "model.diffusion_model.cap_embedder.1.weight"
    assert {key for key in before if not torch.equal(before[key], after[key])} == {name}
    opened = open_image_model(model, [z_image / "qwen.safetensors"])
    states = opened.prompt_states(opened.tokenizer(comfyui))
    rows = [prompt.ids for prompt in states.tokenizer.tokenize_all(["a house by van gogh"])]
    inputs = states.states(rows)[0]
    found, wanted, old = (
        one @ weight.T
        for one, weight in zip(
            (inputs, edit.applied(inputs), inputs), (after[name], before[name], before[name]), strict=True
        )
    )
    assert float((found - wanted).norm()) < 1e-4 * float((wanted - old).norm())
    # Of the way to the targets' captions, at the last token of the subject, the edit goes what its report says.
    captions = [expand(edit.concepts[0].templates, text) for text in ("van gogh", "painting")]
    ends = [[states.tokenizer.spans(t, x)[0][-1] for t in edit.concepts[0].templates] for x in ("van gogh", "painting")]
    keys = [
        states.states([p.ids for p in states.tokenizer.tokenize_all(texts)])[range(len(places)), places]
        for texts, places in zip(captions, ends, strict=True)
    ]
    apart, left = (float((one - keys[1]).square().sum()) for one in (keys[0], edit.applied(keys[0])))
    assert share_reached(apart, left) == pytest.approx(edit.report.efficacy, abs=1e-3) and left < apart
    # The text encoder is needed by what measures the edit too, and is never written over.
    code, said, err = shell("report", model, out, *files)
    assert code == 0 and "model: the one that" in said, err
    taken = ("--apply", str(z_image / "qwen.safetensors"), "--overwrite")
    code, _, err = shell("edit", model, *VAN_GOGH, *files, *taken)
    assert code == 1 and "is a file of the model itself" in err


def test_what_is_missing_is_said_before_work(z_image, shell, tmp_path, monkeypatch):
    monkeypatch.setattr("diff_quickfix.cli.models.edit_doors", lambda *a, **k: pytest.fail("computed first"))
    model = str(z_image / "z.safetensors")
    code, _, err = shell("edit", model, *VAN_GOGH)
    assert code == 1 and "no Qwen3 text encoder" in err and "--text-encoder FILE" in err
    monkeypatch.setattr("diff_quickfix.text.other_tokenizers.__file__", str(tmp_path / "a" / "b" / "c" / "d.py"))
    code, _, err = shell("edit", model, *VAN_GOGH, "--text-encoder", str(z_image / "qwen.safetensors"))
    assert code == 1 and "No tokenizer of Qwen found" in err and "--tokenizer FOLDER" in err


def test_flux_in_one_checkpoint(shell, comfyui, tmp_path):
    """T5 and CLIP-L in the checkpoint: both doors are edited, whole captions, and CLIP-L is no Stable Diffusion's."""
    parts = {f"model.diffusion_model.{key}": value for key, value in row_models.tensors("flux").items()}
    parts |= row_models.named(row_models.t5(), "text_encoders.t5xxl.transformer.")
    parts |= row_models.named(row_models.clip(), "text_encoders.clip_l.transformer.")
    save_file(parts, tmp_path / "flux.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 16, "num_attention_heads": 4}))
    model, out = str(tmp_path / "flux.safetensors"), str(tmp_path / "fix.safetensors")
    code, said, err = shell("edit", model, *VAN_GOGH, "--tokenizer", str(comfyui), "--out", out, "--json")
    assert code == 0, err
    edit = load_edit(out)
    assert [update.door.name for update in edit.doors] == ["txt_in", "vector_in.in_layer"]
    assert edit.settings.positions == "whole aligned caption" and json.loads(said)["encoder"] == "flux"
    code, _, err = shell("edit", model, *VAN_GOGH, "--tokenizer", str(comfyui), "--positions", "last")
    assert code == 1 and "--positions last" in err


def test_anima_reads_what_its_adapter_makes(z_image, shell, comfyui, tmp_path):
    """Its values are edited by the states at T5's tokens, those of an empty prompt too."""
    save_file(
        {f"net.{key}": value for key, value in row_models.tensors("anima").items()}, tmp_path / "anima.safetensors"
    )
    model, out = str(tmp_path / "anima.safetensors"), str(tmp_path / "fix.safetensors")
    files = ("--text-encoder", str(z_image / "qwen.safetensors"), "--tokenizer", str(comfyui))
    code, _, err = shell("edit", model, *VAN_GOGH, *files, "--out", out, "--naming", "comfyui")
    assert code == 0, err
    edit = load_edit(out)
    assert [update.door.name for update in edit.doors] == ["blocks.0.cross_attn.v_proj"]
    opened = open_image_model(model, [z_image / "qwen.safetensors"])
    states = opened.prompt_states(opened.tokenizer(comfyui))
    rows = states.tokenizer.tokenize_all(["", "a house by van gogh"])
    found = states.states([row.ids for row in rows])
    counted = [sum(token >= 0 for token in row.ids) for row in rows]
    for one, count in zip(found, counted, strict=True):
        assert one[:count].any(1).all() and not one[count:].any()
    weight = row_models.tensors("anima")["blocks.0.cross_attn.v_proj.weight"]
    factors = edit.factors(edit.doors[0])
    wanted = (edit.applied(found[1]) - found[1]) @ weight.T
    torch.testing.assert_close(found[1] @ (factors.up @ factors.down).T, wanted, rtol=1e-3, atol=1e-3)
