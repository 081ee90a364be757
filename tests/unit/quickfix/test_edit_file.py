"""Edits as LoRA files: what was saved comes back, by either naming; what is damaged or foreign is refused in words."""

import dataclasses
import json
import random

import pytest
import torch
from diff_quickfix.output.tensors import write_tensors
from diff_quickfix.quickfix import (
    ENCODERS,
    GUARDED,
    NAMINGS,
    ConceptEdit,
    EditFileError,
    TowerError,
    WeightEdit,
    load_edit,
    read_edit_file,
    require_fit,
    save_edit,
)
from edit_reports import WIDTH, make
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("layer", [0, 11])
def test_all_of_an_edit_comes_back(tmp_path, naming, encoder, layer):
    edit = make(encoder=encoder, layer=layer)
    save_edit(edit, tmp_path / "a.safetensors", naming=naming)
    file = read_edit_file(tmp_path / "a.safetensors")
    assert (file.naming, file.energy) == (naming, 1.0)
    back = load_edit(tmp_path / "a.safetensors")
    for name in ("up", "down"):
        assert torch.equal(getattr(back, name), getattr(edit, name))
    for name in ("weight_name", "concepts", "settings", "report", "encoder", "base"):
        assert getattr(back, name) == getattr(edit, name), name


@pytest.mark.parametrize(
    ("encoder", "naming", "key"),
    [
        ("clip_l", "kohya", "lora_te_text_model_encoder_layers_0_self_attn_out_proj"),
        ("clip_h", "kohya", "lora_te_text_model_encoder_layers_0_self_attn_out_proj"),
        ("sdxl_clip_l", "kohya", "lora_te1_text_model_encoder_layers_0_self_attn_out_proj"),
        ("sdxl_clip_g", "kohya", "lora_te2_text_model_encoder_layers_0_self_attn_out_proj"),
        ("clip_h", "comfyui", "text_encoders.clip_h.transformer.text_model.encoder.layers.0.self_attn.out_proj"),
        ("sdxl_clip_g", "comfyui", "text_encoders.clip_g.transformer.text_model.encoder.layers.0.self_attn.out_proj"),
    ],
)
def test_other_programs_find_a_plain_lora(tmp_path, encoder, naming, key):
    """By the rule of every loader: alpha / rank * up @ down; the metadata says what made it, for people too."""
    edit = make(encoder=encoder)
    save_edit(edit, tmp_path / "a.safetensors", naming=naming)
    tensors = load_file(tmp_path / "a.safetensors")
    up, down, alpha = (tensors.pop(f"{key}.{part}") for part in ("lora_up.weight", "lora_down.weight", "alpha"))
    idle = ENCODERS[encoder].idle_modules(edit.weight_name, naming, WIDTH)
    assert tensors.keys() == {
        f"{name}.{part}" for name in idle for part in ("lora_up.weight", "lora_down.weight", "alpha")
    }
    assert not any(value.any() for name, value in tensors.items() if not name.endswith("alpha"))
    torch.testing.assert_close(float(alpha) / down.shape[0] * (up @ down), edit.delta())
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        said = json.loads(file.metadata()["diff_quickfix"])
    assert said["concepts"][0]["source"] == "van gogh" and said["report"]["efficacy"] == 0.75
    assert said["settings"]["lam"] == GUARDED.lam and said["base"] == "ab" * 32 and said["schema"] == 1


@pytest.mark.parametrize(
    ("encoder", "modules"),
    [
        ("clip_l", set()),
        ("clip_h", {f"lora_te_text_model_encoder_layers_3_self_attn_{part}_proj" for part in "qkv"}),
        ("sdxl_clip_l", {"lora_te2_text_model_encoder_layers_3_self_attn_out_proj"}),
        (
            "sdxl_clip_g",
            {f"lora_te2_text_model_encoder_layers_3_self_attn_{part}_proj" for part in "qkv"}
            | {"lora_te1_text_model_encoder_layers_3_self_attn_out_proj"},
        ),
    ],
)
def test_modules_of_zeros_stand_where_other_uis_look_for_them(tmp_path, encoder, modules):
    """Fused attentions are patched only when all parts are there; SDXL's LoRAs are known by both text encoders."""
    edit, path = make(encoder=encoder, layer=3), tmp_path / "a.safetensors"
    save_edit(edit, path, dtype=torch.float16)
    tensors = load_file(path)
    own = ENCODERS[encoder].lora_key(edit.weight_name, "kohya")
    assert {name.split(".")[0] for name in tensors} == {own} | modules
    for name in modules:
        up, down, alpha = (tensors[f"{name}.{part}"] for part in ("lora_up.weight", "lora_down.weight", "alpha"))
        # diffusers may take one module's alpha for that of all.
        assert float(alpha) == edit.rank == float(tensors[f"{own}.alpha"])
        assert up.shape[1] == down.shape[0] == 1 and len(up) == down.shape[1]
        assert len(up) == (WIDTH if name.startswith(own[:8]) else {"lora_te1": 768, "lora_te2": 1280}[name[:8]])
        assert not up.any() and not down.any()
    assert load_edit(path).rank == edit.rank
    text = safe_open(path, "pt").metadata()
    save_file({name: value for name, value in tensors.items() if name.startswith(own)}, path, text)
    assert load_edit(path).rank == edit.rank, "a file of an earlier version"
    if modules:
        moving = {**tensors, f"{min(modules)}.lora_up.weight": tensors[f"{min(modules)}.lora_up.weight"] + 1}
        save_file(moving, path, text)
        with pytest.raises(EditFileError, match=f"it changes {min(modules)}.lora_up.weight too"):
            load_edit(path)


def both(first="sdxl_clip_l", second="sdxl_clip_g"):
    return WeightEdit.joined([make(encoder=first), make(rank=5, encoder=second, seed=1, base="cd" * 32)])


@pytest.mark.parametrize("naming", [*NAMINGS, "diffusers"])
@pytest.mark.parametrize("family", ["sdxl", "sd3"])
def test_edits_of_both_text_encoders_of_a_model_are_one_file(tmp_path, naming, family):
    """Each tower gets its own delta, by the rule of every loader, and both edits come back."""
    edit, path = both(f"{family}_clip_l", f"{family}_clip_g"), tmp_path / "a.safetensors"
    save_edit(edit, path, naming=naming)
    tensors, ranks = load_file(path), set()
    for part in edit.parts:
        key = ENCODERS[part.encoder].lora_key(part.weight_name, naming)
        names = ["lora_A.weight", "lora_B.weight"] if naming == "diffusers" else ["lora_down.weight", "lora_up.weight"]
        down, up = (tensors.pop(f"{key}.{name}") for name in names)
        scale = float(tensors.pop(f"{key}.alpha", torch.tensor(float(len(down))))) / len(down)
        torch.testing.assert_close(scale * up @ down, part.delta())
        ranks.add(len(down))
    assert len(ranks) == 1, "diffusers may take one module's rank for that of all"
    assert not any(value.any() for name, value in tensors.items() if not name.endswith("alpha"))
    back = load_edit(path)
    for found, wanted in zip(back.parts, edit.parts, strict=True):
        assert torch.equal(found.up, wanted.up) and torch.equal(found.down, wanted.down)
        for name in ("weight_name", "concepts", "settings", "report", "encoder", "base"):
            assert getattr(found, name) == getattr(wanted, name), name
    with safe_open(path, "pt") as file:
        assert "CLIP-L and CLIP-G" in file.metadata()["modelspec.description"]


def test_files_that_earlier_versions_cannot_read_tell_them_so(tmp_path):
    """By the format's number: they say that a newer version wrote it, not that it is damaged."""
    path = tmp_path / "a.safetensors"
    for edit, schema in ((make(encoder="sdxl_clip_g"), 1), (make(encoder="flux_clip_l"), 3), (both(), 3)):
        save_edit(edit, path, overwrite=True)
        with safe_open(path, "pt") as file:
            assert json.loads(file.metadata()["diff_quickfix"])["schema"] == schema


def test_an_edit_of_several_text_encoders_is_cut_and_checked_in_each(tmp_path, small_tower):
    edit = both()
    for whole, cut in zip(edit.parts, edit.truncated(0.99).parts, strict=True):
        assert 0 < cut.rank < whole.rank and not cut.others
        assert float((cut.delta() - whole.delta()).norm()) <= 0.1 * float(whole.delta().norm()) * (1 + 1e-4)
    with pytest.raises(TowerError, match="changes 2 text encoders"):
        require_fit(small_tower, edit)
    for encoders in (("sdxl_clip_l", "sdxl_clip_l"), ("sdxl_clip_l", "sd3_clip_g")):
        save_edit(both(*encoders), tmp_path / "strange.safetensors", overwrite=True)
        with pytest.raises(EditFileError, match="not those of one model"):
            load_edit(tmp_path / "strange.safetensors")


def test_the_same_edit_is_the_same_bytes_in_every_process(tmp_path):
    """The library orders metadata at random from process to process: here, many ways to order it are one file."""
    edit = make()
    for name in "ab":
        save_edit(edit, tmp_path / f"{name}.safetensors")
    one = (tmp_path / "a.safetensors").read_bytes()
    assert one == (tmp_path / "b.safetensors").read_bytes()
    entries = {f"key {number}": str(number) for number in range(12)}
    tensors = {"b": torch.ones(3), "a": torch.zeros(2, 2, dtype=torch.float16)}
    for number in range(5):
        names = random.Random(number).sample(sorted(entries), len(entries))
        write_tensors(tmp_path / f"{number}", tensors, {name: entries[name] for name in names})
    assert len({(tmp_path / f"{number}").read_bytes() for number in range(5)}) == 1
    with safe_open(tmp_path / "0", "pt") as file:
        assert file.metadata() == entries and torch.equal(file.get_tensor("b"), tensors["b"])
        assert file.get_tensor("a").dtype == torch.float16
    header = json.loads(one[8 : 8 + int.from_bytes(one[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"]) and int.from_bytes(one[:8], "little") % 8 == 0


def badge(metadata):
    """The family by which A1111 and Forge sort a LoRA: they hide it beside models of another."""
    if metadata.get("ss_base_model_version", "").startswith("sdxl_"):
        return "SDXL"
    return "SD2" if metadata.get("ss_v2") == "True" else "SD1"


@pytest.mark.parametrize(
    ("encoder", "family", "version", "architecture"),
    [
        ("clip_l", "SD1", "sd_v1", "stable-diffusion-v1/lora"),
        ("clip_h", "SD2", "sd_v2", "stable-diffusion-v2-768-v/lora"),
        ("sdxl_clip_l", "SDXL", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
        ("sdxl_clip_g", "SDXL", "sdxl_base_v1-0", "stable-diffusion-xl-v1-base/lora"),
    ],
)
@pytest.mark.parametrize("naming", NAMINGS)
def test_other_programs_are_told_what_the_file_is_for(tmp_path, naming, encoder, family, version, architecture):
    save_edit(make(encoder=encoder), tmp_path / "a.safetensors", naming=naming)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        said = file.metadata()
    assert badge(said) == family
    assert said["ss_base_model_version"] == version and said["modelspec.architecture"] == architecture
    required = {"sai_model_spec", "architecture", "implementation", "title"}
    assert required <= {name.removeprefix("modelspec.") for name, value in said.items() if value}
    assert said["ss_network_module"] == "networks.lora"


@pytest.mark.parametrize("rank", [1, 3])
def test_the_rank_that_other_programs_are_told_is_that_of_the_tensors(tmp_path, rank):
    save_edit(make(rank=rank), tmp_path / "a.safetensors")
    (down,) = (value for name, value in load_file(tmp_path / "a.safetensors").items() if "down" in name)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        said = file.metadata()
    assert int(said["ss_network_dim"]) == len(down) == int(said["ss_network_alpha"])


@pytest.mark.parametrize(
    ("count", "end"), [(1, "a0 -> b"), (3, "a2 -> b"), (4, "a2 -> b and 1 more"), (9, "and 6 more")]
)
def test_people_read_what_a_file_does_and_not_all_of_a_long_list(tmp_path, count, end):
    concepts = tuple(ConceptEdit(f"a{number}", "b") for number in range(count))
    save_edit(make(concepts=concepts), tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        said = file.metadata()
    assert said["modelspec.title"].startswith("Diff-QuickFix: a0 -> b") and said["modelspec.title"].endswith(end)
    assert "a0 -> b" in said["modelspec.description"] and "a5" not in said["modelspec.title"]


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 8e-3)])
def test_half_precision_halves_the_file_and_keeps_the_edit(tmp_path, dtype, error):
    edit = make(rank=16)
    save_edit(edit, tmp_path / "full.safetensors")
    save_edit(edit, tmp_path / "half.safetensors", dtype=dtype)
    change = load_edit(tmp_path / "half.safetensors").delta() - edit.delta()
    assert 0 < change.norm() < error * edit.delta().norm()
    sizes = [sum(t.nbytes for t in load_file(tmp_path / f"{name}.safetensors").values()) for name in ("full", "half")]
    assert sizes[0] - sizes[1] == edit.nbytes // 2


@pytest.mark.parametrize("energy", [0.9, 0.999, 0.999999])
@pytest.mark.parametrize("orthonormal", [True, False])
def test_a_truncated_edit_keeps_the_energy_it_says_with_the_least_rank(tmp_path, energy, orthonormal):
    """Oracle: the singular values of the dense matrix (Eckart-Young)."""
    edit = make(rank=12)
    if not orthonormal:
        edit = dataclasses.replace(edit, down=edit.down + 0.3 * edit.down[:1])
    values = torch.linalg.svdvals(edit.delta().double()).square()
    least = 1 + int((values.cumsum(0) < energy * values.sum()).sum())
    save_edit(edit, tmp_path / "a.safetensors", energy=energy)
    file = read_edit_file(tmp_path / "a.safetensors")
    cut = file.edit
    assert file.energy == energy and cut.rank == least == cut.report.rank < 12 and cut.report.nbytes == cut.nbytes
    lost = (edit.delta() - cut.delta()).double().square().sum() / values.sum()
    assert float(lost) == pytest.approx(float(values[least:].sum() / values.sum()), rel=1e-2, abs=1e-9)


def test_the_whole_energy_is_the_edit_itself():
    edit = make()
    assert edit.truncated(1.0) is edit
    for energy in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="expected a share"):
            edit.truncated(energy)


def test_an_edit_that_does_nothing_is_saved_and_loaded(tmp_path):
    nothing = make(rank=3, up=torch.zeros(WIDTH, 0), down=torch.zeros(0, WIDTH))
    save_edit(nothing, tmp_path / "a.safetensors", energy=0.5)
    back = load_edit(tmp_path / "a.safetensors")
    assert back.rank == 0 and torch.equal(back.delta(), torch.zeros(WIDTH, WIDTH))


def test_nothing_is_overwritten_silently(tmp_path):
    path = tmp_path / "a.safetensors"
    save_edit(make(), path)
    with pytest.raises(EditFileError, match=r"a\.safetensors exists already"):
        save_edit(make(seed=1), path)
    assert torch.equal(load_edit(path).up, make().up)
    save_edit(make(seed=1), path, overwrite=True)
    assert torch.equal(load_edit(path).up, make(seed=1).up)
    with pytest.raises(EditFileError, match=r"Cannot write b\.safetensors"):
        save_edit(make(), tmp_path / "missing" / "b.safetensors")
    for options in ({"naming": "peft"}, {"energy": 2.0}, {"dtype": torch.int8}):
        with pytest.raises(ValueError, match=r"Unknown LoRA naming|expected"):
            save_edit(make(), tmp_path / "c.safetensors", **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.safetensors"]
