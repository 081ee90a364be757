"""An edit is computed from the model that will run: merged weights, and the layers that the sampler reads."""

import comfy.sd
import pytest
import torch
from comfy_extras import nodes_attention_multiply, nodes_model_merging
from conditioning import encode
from diff_quickfix.quickfix import GUARDED, ConceptEdit, TextTower, compute_edit

import nodes as comfyui_nodes

# The pack's own code; ComfyUI's version has little to do with it.
pytestmark = pytest.mark.newest

OUT_PROJ = "clip_l.transformer.text_model.encoder.layers.0.self_attn.out_proj.weight"


@pytest.fixture(scope="module")
def other(nodes):
    """Another model's CLIP: Shapes with other weights."""
    clip = nodes["DiffQuickFix_LoadShapesDemo"].execute().args[1]
    torch.manual_seed(5)
    with torch.no_grad():
        for weight in clip.cond_stage_model.parameters():
            weight += torch.randn_like(weight) * weight.abs().mean() * 0.5
    return clip


def ran(node, *args):
    """The first output of a stock node, of the old form or the new."""
    return getattr(node(), node.FUNCTION)(*args)[0]


def merges(clip, other):
    """CLIPs merged by the stock nodes, each with what its weights are then, from those of the two."""
    simple = ran(nodes_model_merging.CLIPMergeSimple, clip, other, 0.25)
    yield "simple", simple, lambda a, b: 0.25 * a + 0.75 * b
    yield "added", ran(nodes_model_merging.CLIPAdd, clip, other), lambda a, b: a + b
    yield "subtracted", ran(nodes_model_merging.CLIPSubtract, clip, other, 0.5), lambda a, b: 0.5 * (a - b)
    twice = ran(nodes_model_merging.CLIPMergeSimple, simple, other, 0.5)
    yield "twice", twice, lambda a, b: 0.5 * (0.25 * a + 0.75 * b) + 0.5 * b


def edited_keys(clip):
    """CLIP's weights by the tower's names."""
    prefix = "clip_l.transformer.text_model."
    weights = clip.cond_stage_model.state_dict()
    return {name.removeprefix(prefix): value.float() for name, value in weights.items() if name.startswith(prefix)}


def test_the_edit_of_a_merge_is_that_of_the_merged_weights(edit, shapes, other, tokenizer):
    """Oracle: the two models' weights mixed by hand."""
    one, two = edited_keys(shapes[1]), edited_keys(other)
    plain = edit(shapes[1])[1]
    for name, clip, mixed in merges(shapes[1], other):
        weights = {key: mixed(one[key], two[key]) for key in one}
        tower = TextTower.from_weights(weights, heads=heads_of(clip), activation="quick_gelu")
        wanted = compute_edit(tower, tokenizer, [ConceptEdit("van gogh", "painting")], GUARDED)
        edited, found, report = edit(clip)
        assert (found.delta() - wanted.delta()).norm() < 1e-4 * wanted.delta().norm(), name
        assert (found.delta() - plain.delta()).norm() > 0.1 * plain.delta().norm(), name
        assert found.report.drift == pytest.approx(wanted.report.drift, rel=1e-3), name
        assert found.base == wanted.base or name != "simple"
        assert "computed from: the merged model" in report
        assert len(edited.patcher.patches[OUT_PROJ]) == len(clip.patcher.patches[OUT_PROJ]) + 1


def heads_of(clip):
    return clip.cond_stage_model.clip_l.transformer.text_model.encoder.layers[0].self_attn.heads


def test_loras_and_edits_do_not_count_unless_they_were_merged(edit, shapes, other):
    plain = edit(shapes[1])
    assert "computed from" not in plain[2]
    lora = plain[1].lora(naming="comfyui")
    loaded = comfy.sd.load_lora_for_models(shapes[0], shapes[1], lora, 0.0, 0.5)[1]
    for clip in (plain[0], loaded, comfy.sd.load_lora_for_models(shapes[0], plain[0], lora, 0.0, 1.0)[1]):
        _, found, report = edit(clip)
        assert torch.equal(found.delta(), plain[1].delta())
        assert "computed from: the model without its LoRAs and other edits" in report
    merge = ran(nodes_model_merging.CLIPMergeSimple, shapes[1], other, 0.5)
    merged = edit(merge)[1]
    behind = comfy.sd.load_lora_for_models(shapes[0], merge, lora, 0.0, 1.0)[1]
    assert torch.equal(edit(behind)[1].delta(), merged.delta())
    before = ran(nodes_model_merging.CLIPMergeSimple, loaded, other, 0.5)
    assert not torch.equal(edit(before)[1].delta(), merged.delta())
    again = edit(edit(merge)[0])[1]
    assert torch.equal(again.delta(), merged.delta())


def test_scaled_attention_counts(edit, shapes):
    """CLIPAttentionMultiply scales weights: what runs is another model."""
    node = nodes_attention_multiply.CLIPAttentionMultiply
    clip = node.execute(shapes[1], 1.3, 1.0, 1.0, 0.8).args[0]
    found, plain = edit(clip)[1], edit(shapes[1])[1]
    assert (found.delta() - plain.delta()).norm() > 0.01 * plain.delta().norm()
    assert found.base != plain.base


@pytest.mark.parametrize("skip", [-1, -2, -3])
def test_the_report_measures_what_the_sampler_reads(edit, shapes, skip):
    """Oracle: the conditioning of a caption before and after the edit, as the stock encoder gives it."""
    clip = comfyui_nodes.CLIPSetLastLayer().set_last_layer(shapes[1], skip)[0]
    edited, found, _ = edit(clip, layer=1)
    drifts = []
    for caption in ("a mountain lake at sunrise", "an astronaut riding a horse"):
        before, after = (encode(one, caption) for one in (clip, edited))
        drifts.append(float((after - before)[:, :12].norm() / before[:, :12].norm()))
    assert found.report.final.drift == pytest.approx(sum(drifts) / 2, rel=1e-3) and found.report.final.drift > 0


def test_a_layer_that_is_never_run_is_refused(run, edit, shapes):
    layers = len(shapes[1].cond_stage_model.clip_l.transformer.text_model.encoder.layers)
    clip = comfyui_nodes.CLIPSetLastLayer().set_last_layer(shapes[1], -2)[0]
    assert edit(clip, layer=layers - 2)[1].report.final.drift > 0
    _, last, _ = edit(shapes[1], layer=layers - 1)
    for asked in (
        lambda: edit(clip, layer=layers - 1),
        lambda: run("ChangeEdit", clip, last, "", "snoopy -> dog", "", 1.0),
    ):
        with pytest.raises(ValueError, match=rf"no layer {layers - 1}: .* reads layers 0 to {layers - 2} of"):
            asked()
