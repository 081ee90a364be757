"""Diff-QuickFix Edit on models with several text encoders: what is edited, by which names, and what brings it back."""

import pytest
import torch
from diff_quickfix.quickfix import ENCODERS, prompts_of_text
from safetensors.torch import load_file
from small_encoders import objects
from small_sdxl import small_clip, small_sd3_clip

TOWERS = ("clip_l", "clip_g")
FIRST = "{}.transformer.text_model.encoder.layers.0.self_attn.out_proj.weight"
# Of each family: its CLIP, and the towers that can be edited.
FAMILIES = {
    "sdxl": (small_clip, TOWERS),
    "sd3": (small_sd3_clip, TOWERS),
    "flux": (lambda: objects("flux")[1], TOWERS[:1]),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def clip(family):
    return FAMILIES[family][0]()


@pytest.fixture(scope="module")
def sdxl():
    return small_clip()


def changed(clip):
    """The weights that a CLIP's patches change, with what they add, by the tower's name."""
    import comfy.lora

    found = {}
    for key, patches in clip.patcher.patches.items():
        (base, convert), *_ = clip.patcher.get_key_patches(key)[key]
        weight = convert(base).detach().float()
        change = comfy.lora.calculate_weight(patches, weight.clone(), key) - weight
        if change.any():
            name = key.split(".")[0]
            assert key == FIRST.format(name) and name not in found
            found[name] = change
    return found


def same(one, other):
    return one.keys() == other.keys() and all((one[key] - other[key]).norm() < 1e-5 * one[key].norm() for key in one)


def encode(clip, prompt):
    """Text states and pooled vector, as ComfyUI gives them to the image model."""
    with torch.inference_mode():
        states, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    return states.float(), pooled.float()


@pytest.mark.parametrize("choice", ["auto", "clip_l", "clip_g", "both"])
def test_the_chosen_towers_are_edited_at_their_first_self_attention(edit, family, clip, choice):
    has = FAMILIES[family][1]
    wanted = {"auto": has, "both": TOWERS}.get(choice, (choice,))
    if not set(wanted) <= set(has):
        with pytest.raises(ValueError, match=f"no text encoder '{choice}': found clip_l of Flux"):
            edit(clip, encoder=choice)
        return
    edited, change, report = edit(clip, encoder=choice)
    assert tuple(changed(edited)) == wanted and not clip.patcher.patches
    assert [part.encoder for part in change.parts] == [f"{family}_{name}" for name in wanted]
    for part in change.parts:
        known = ENCODERS[part.encoder]
        torch.testing.assert_close(changed(edited)[known.module], part.delta(), atol=1e-5, rtol=1e-4)
        assert part.report.encoder == part.encoder and f"edited: {known.title} of {known.family};" in report
    assert report.count("verdict:") == len(wanted)
    before, after = (encode(which, "a cat by van gogh") for which in (clip, edited))
    # Flux reads of its CLIP the pooled vector, and all of its states from T5.
    assert not torch.equal(before[1], after[1]) or (choice, family) == ("clip_l", "sdxl")
    assert torch.equal(before[0], after[0]) == (family == "flux")


def test_the_concept_moves_to_its_target_in_both_towers(edit, sdxl):
    """Nothing preserved: at "van gogh" the attention of each tower gives what it gives for "painting"."""
    _, change, _ = edit(sdxl, preset="paper", lam=1e-7, kind="custom", templates="{x}", positions="last subject token")
    for part in change.parts:
        encoder = getattr(sdxl.cond_stage_model, ENCODERS[part.encoder].module)
        attention = encoder.transformer.text_model.encoder.layers[0].self_attn
        seen = {}
        handle = attention.out_proj.register_forward_hook(
            lambda _, inputs, output, into=seen: into.update(x=inputs[0], y=output)
        )
        outputs = {}
        try:
            for name in ("van gogh", "painting"):
                encode(sdxl, name)
                outputs[name] = seen["x"][0].float(), seen["y"][0].float()
        finally:
            handle.remove()
        # "van gogh" is two tokens and "painting" one, behind the start token.
        (keys, was), (_, wanted) = outputs["van gogh"], outputs["painting"]
        found = was[2] + part.delta() @ keys[2]
        assert float((found - wanted[1]).norm()) < 1e-3 * float((was[2] - wanted[1]).norm())
        assert part.report.efficacy > 0.99


@pytest.mark.parametrize("naming", ["kohya", "comfyui"])
def test_the_stock_loader_and_load_edit_give_the_weights_of_the_node(edit, family, clip, run, folders, naming):
    import comfy.sd

    edited, change, report = edit(clip)
    name = run("SaveEditAsLoRA", change, "edit", naming, 1.0, "fp32").args[0]
    tensors = load_file(folders / "loras" / name)
    if naming == "kohya":
        tower = {"clip_l": "lora_te1_text_model", "clip_g": "lora_te2_text_model"}
        assert all(any(key.startswith(tower[name]) for key in tensors) for name in FAMILIES[family][1])
    _, loaded = comfy.sd.load_lora_for_models(None, clip, tensors, 0.0, 1.0)
    assert same(changed(edited), changed(loaded))
    again_clip, again, measured, model = run("LoadEdit", clip, name, 1.0).args
    assert same(changed(edited), changed(again_clip)) and model is None
    assert "not the model" not in measured and measured.count("verdict:") == report.count("verdict:")
    for found, wanted in zip(again.parts, change.parts, strict=True):
        assert (found.encoder, found.concepts, found.settings, found.base, found.report) == (
            *(wanted.encoder, wanted.concepts, wanted.settings, wanted.base, wanted.report),
        )


@pytest.mark.newest
def test_what_belongs_to_another_model_is_refused(edit, sdxl, shapes, run, folders):
    one, both = edit(sdxl, encoder="clip_g")[1], edit(sdxl)[1]
    for change in (one, both):
        name = run("SaveEditAsLoRA", change, "edit", "kohya", 1.0, "fp32").args[0]
        for clip in (shapes[1], small_sd3_clip(clip_g=False)):
            with pytest.raises(ValueError, match="made for another kind of model"):
                run("LoadEdit", clip, name, 1.0)
    alone = small_sd3_clip(clip_g=False)
    assert tuple(changed(edit(alone)[0])) == ("clip_l",)
    with pytest.raises(ValueError, match="no text encoder 'both': found clip_l of Stable Diffusion 3"):
        edit(alone, encoder="both")
    with pytest.raises(ValueError, match="found clip_l of Stable Diffusion 1"):
        edit(shapes[1], encoder="clip_g")
    assert edit(shapes[1], encoder="clip_l")[1].encoder == "clip_l"


def test_a_clip_without_a_clip_tower_is_pointed_to_remove_concept(edit):
    for name in ("z-image", "chroma"):
        with pytest.raises(ValueError, match="Use Remove Concept"):
            edit(objects(name)[1])


def test_both_are_changed_together(edit, sdxl, run):
    concepts = run("ConceptEditList", "van gogh -> painting\ngeorges seurat -> painting", "none").args[0]
    two = edit(sdxl, source="", concepts=concepts)[1]
    clip, after, report, _ = run("ChangeEdit", sdxl, two, "georges seurat", "", "", 1.0).args
    wanted_clip, wanted, _ = edit(sdxl)
    assert same(changed(clip), changed(wanted_clip)) and [part.encoder for part in after.parts] == [
        part.encoder for part in wanted.parts
    ]
    assert report.count("verdict:") == 2 and after.parts[1].concepts == wanted.concepts


@pytest.mark.newest
def test_the_radar_and_the_report_tell_each_tower(edit, sdxl, run):
    import json

    change = edit(sdxl)[1]
    report, preserve = run("CollateralRadar", sdxl, change, 3).args
    assert report.startswith("CLIP-L of SDXL\nlooked at") and "\n\nCLIP-G of SDXL\nlooked at" in report
    alone = [run("CollateralRadar", sdxl, part, 3).args for part in change.parts]
    assert all(text in report for text, _ in alone)
    every = [prompt for _, text in alone for prompt in prompts_of_text(text)]
    assert prompts_of_text(preserve) == tuple(dict.fromkeys(every))
    text, measures, picture = run("EditReport", change, 600).args
    assert text.count("verdict:") == 2
    said = json.loads(measures)
    assert [said["encoder"], *(other["encoder"] for other in said["others"])] == ["sdxl_clip_l", "sdxl_clip_g"]
    parts = [run("EditReport", part, 600).args[2] for part in change.parts]
    assert picture.shape[1] == sum(part.shape[1] for part in parts) and picture.shape[2] == 600
