"""The editing node on ComfyUI's own CLIP objects: Shapes, and Stable Diffusion 1.5 at real size with random weights."""

import pytest
import torch
from conditioning import attention_outputs, encode
from diff_quickfix.quickfix import TextTower
from random_models import cached, clip_l, sd15

PROMPT = "a red circle on grass, in the style of van gogh"
KEY = "clip_l.transformer.text_model." + TextTower.out_proj_name(0)


def load_clip_l():
    import comfy.sd

    return comfy.sd.load_clip([str(cached("clip-l", clip_l))], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)


@pytest.fixture(scope="module")
def real_size():
    return load_clip_l()


def weight_of(clip):
    return clip.patcher.get_key_patches(KEY)[KEY][0][0].detach().clone()


def test_strength_zero_is_bit_identical_and_the_given_clip_is_untouched(real_size, edit):
    before, weight = encode(real_size, PROMPT), weight_of(real_size)
    idle, _, _ = edit(real_size, strength=0.0)
    assert torch.equal(encode(idle, PROMPT), before)
    edited, _, _ = edit(real_size)
    assert not torch.equal(encode(edited, PROMPT), before)
    assert torch.equal(encode(real_size, PROMPT), before)
    assert torch.equal(weight_of(edited), weight) and torch.equal(weight_of(real_size), weight)


def test_the_patched_layer_gives_the_target(shapes, edit):
    """Under ComfyUI's own patching, a strong edit makes the edited layer answer as if the target stood there."""
    _, clip, _ = shapes
    edited, _, _ = edit(clip, preset="paper", lam=1e-6, positions="last subject token")
    runs = ((clip, "van gogh"), (clip, "painting"), (edited, "van gogh"))
    outputs = attention_outputs(clip.cond_stage_model.clip_l, runs)
    source, target, answer = outputs[0][0, 2], outputs[1][0, 1], outputs[2][0, 2]
    assert (answer - target).norm() < 0.02 * (source - target).norm()


def test_edits_stack_with_themselves_and_add_up(real_size, edit):
    once, change, _ = edit(real_size)
    twice, again, _ = edit(once)
    assert torch.equal(again.delta(), change.delta()), "an edit is computed from base weights, whatever is patched"
    double, _, _ = edit(real_size, strength=2.0)
    assert torch.allclose(encode(twice, PROMPT), encode(double, PROMPT), atol=2e-3)


def test_the_lora_of_an_edit_loads_in_the_stock_loader_and_gives_the_same_text(shapes, edit):
    import comfy.sd

    model, clip, _ = shapes
    edited, change, _ = edit(clip)
    for naming in ("kohya", "comfyui"):
        _, loaded = comfy.sd.load_lora_for_models(model, clip, change.lora(naming=naming), 0.0, 1.0)
        assert torch.allclose(encode(loaded, PROMPT), encode(edited, PROMPT), atol=1e-4)
        _, off = comfy.sd.load_lora_for_models(model, clip, change.lora(naming=naming), 0.0, 0.0)
        assert torch.equal(encode(off, PROMPT), encode(clip, PROMPT))


def test_the_editors_tower_computes_what_comfyui_computes(shapes, pack):
    from pack_under_test.nodes.host.editing.text_encoder import open_text_encoder

    _, clip, _ = shapes
    encoder = open_text_encoder(clip)
    ids = encoder.tokenizer.tokenize(PROMPT).ids
    assert list(ids) == [token for token, _ in clip.tokenize(PROMPT)["l"][0]]
    assert torch.allclose(encoder.tower.hidden_states([ids]), encode(clip, PROMPT), atol=1e-5)


def test_layers_behind_the_edited_one_may_be_missing(shapes, edit):
    _, clip, _ = shapes
    with pytest.raises(ValueError, match="no layer 6"):
        edit(clip, layer=6)
    _, change, _ = edit(clip, layer=5)
    assert change.weight_name == TextTower.out_proj_name(5)


def test_a_checkpoint_in_half_precision_is_edited_and_its_rounding_reported(edit):
    import comfy.sd

    path = cached("sd15", sd15)
    _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    assert vae is not None
    edited, change, report = edit(clip)
    assert change.delta().shape == (768, 768) and 0 < change.report.efficacy <= 1
    assert "storage: " in report
    assert not torch.equal(encode(edited, PROMPT), encode(clip, PROMPT))


def test_quantized_weights_are_refused(shapes, edit):
    _, clip, _ = shapes
    copy = clip.clone()
    entries = clip.patcher.get_key_patches("clip_l.")
    entries[KEY] = [(torch.zeros(128, 64, dtype=torch.uint8), lambda a, **_: a)]
    copy.patcher.get_key_patches = lambda prefix=None: entries
    with pytest.raises(ValueError, match="quantized"):
        edit(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": " "}, "source concept is empty"),
        ({"target": "Van Gogh"}, "different target"),
        ({"target": "", "kind": "object"}, "no default"),
        ({"source": "red " * 80}, "cut off"),
        ({"kind": "custom"}, "own caption templates"),
        ({"kind": "custom", "templates": "a photo"}, r"\{x\}"),
        ({"preserve": "a van gogh painting"}, "cannot be preserved"),
    ],
)
def test_bad_input_is_refused_by_name(shapes, edit, changes, message):
    with pytest.raises(ValueError, match=message):
        edit(shapes[1], **changes)


def test_nothing_is_left_behind_after_an_error(shapes, edit):
    _, clip, _ = shapes
    before, patches = encode(clip, PROMPT), dict(clip.patcher.patches)
    with pytest.raises(ValueError, match="cut off"):
        edit(clip, source="red " * 80)
    assert clip.patcher.patches == patches
    assert all(not module._forward_hooks for module in clip.cond_stage_model.modules())
    assert torch.equal(encode(clip, PROMPT), before)


def test_shapes_edited_clip_is_saved_by_the_stock_node(shapes, edit, tmp_path, monkeypatch):
    """CLIPSave on the demo's CLIP: the file holds the base weight plus the edit, and everything else as it was."""
    import folder_paths
    from comfy_extras.nodes_model_merging import CLIPSave
    from safetensors.torch import load_file

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    _, clip, _ = shapes
    edited, change, _ = edit(clip)
    with torch.inference_mode():
        for name, which in (("before", clip), ("after", edited)):
            CLIPSave().save(which, filename_prefix=name)
    before, after = (load_file(next(tmp_path.glob(f"{name}*.safetensors"))) for name in ("before", "after"))
    assert before.keys() == after.keys()
    (changed,) = (key for key in before if not torch.equal(before[key], after[key]))
    assert changed.endswith(TextTower.out_proj_name(0))
    torch.testing.assert_close(after[changed] - before[changed], change.delta(), atol=1e-5, rtol=1e-4)
