"""Planted knowledge: where one layer or one tap of a text encoder alone carries the subject on, a trace finds it."""

import contextlib

import pytest
from small_sdxl import small_clip
from traced_clips import CLIPS, clip_named, trace_states

__all__ = ["trace_states"]

pytestmark = pytest.mark.usefixtures("inference")
# What a layer's attention and its feed-forward network end in, by the shape of the stack.
ENDS = {
    "t5": ("layer.0.SelfAttention.o", "layer.1.DenseReluDense.wo"),
    "decoder": ("self_attn.o_proj", "mlp.down_proj"),
}


def planted(layer):
    """SDXL's CLIP in which nothing reads another token but one layer of CLIP-G: it alone carries the subject on."""
    clip = small_clip()
    for child in ("clip_l", "clip_g"):
        for number, block in enumerate(getattr(clip.cond_stage_model, child).transformer.text_model.encoder.layers):
            block.mlp.fc2.weight.zero_()
            if (child, number) != ("clip_g", layer):
                block.self_attn.out_proj.weight.zero_()
    return clip


@pytest.mark.parametrize("layer", [0, 1])
def test_a_trace_finds_the_one_layer_that_carries_the_subject(trace_states, run, layer):
    clip = planted(layer)

    def at_the_end(entry):
        return entry[0][:, 16]

    trace = trace_states(clip, at_the_end, kind="self_attn", controls=0)
    assert trace.columns == ("van", "gogh", ",", "at", "night", "<end>", "<padding>")
    assert len(trace.sites) == 6
    effects = trace.average_indirect_effect()
    row, column = trace.sites.index(f"text.g.{layer}.self_attn"), trace.columns.index("<end>")
    total = float(trace.total_effects().mean())
    assert total > 0.01 and float(effects[row, column]) == pytest.approx(total, rel=1e-4)
    effects[row, column] = 0
    assert effects.abs().max() < 1e-4 * total
    found, kind, site, _, report, *_ = run("LocateCausalState", trace, "self_attn").args
    assert (found, kind, site) == (layer, "self_attn", f"text.g.{layer}.self_attn") and "'<end>'" in report
    # CLIP-L carries nothing: hidden in it alone, the subject is not missed.
    deaf = trace_states(clip, at_the_end, kind="self_attn", controls=0, encoder="l")
    assert float(deaf.total_effects().abs().max()) == 0 and {site[:7] for site in deaf.sites} == {"text.l."}


@contextlib.contextmanager
def silent_but(clip, child, shape, layer):
    """Within the context, nothing in an encoder reads another token but one layer, and no network does anything."""
    network = getattr(clip.cond_stage_model, child).transformer
    blocks = network.encoder.block if shape == "t5" else network.model.layers
    attention, forward = ENDS[shape]
    silenced = [block.get_submodule(forward).weight for block in blocks]
    silenced += [block.get_submodule(attention).weight for number, block in enumerate(blocks) if number != layer]
    kept = [weight.clone() for weight in silenced]
    try:
        for weight in silenced:
            weight.zero_()
        yield
    finally:
        for weight, before in zip(silenced, kept, strict=True):
            weight.copy_(before)


def only_cell(trace, site, column):
    """Whether all of a trace's effect is in one cell, and nothing in any other."""
    effects, total = trace.average_indirect_effect().nan_to_num(0.0), float(trace.total_effects().mean())
    assert total > 0.01
    place = trace.sites.index(site), trace.columns.index(column)
    assert float(effects[place]) == pytest.approx(total, rel=1e-3)
    effects[place] = 0
    return float(effects.abs().max()) < 1e-3 * total


@pytest.mark.parametrize(
    ("name", "encoder", "layer", "place", "column"),
    [
        ("flux", "t5", 0, 2, "photo"),
        ("flux", "t5", 1, -1, "<padding>"),
        ("wan", "umt5", 1, 2, "p"),
        ("z-image", "qwen", 0, -1, "\u010a (23)"),
        ("z-image", "qwen", 1, -1, "\u010a (23)"),
        ("lumina2", "gemma", 1, -1, ""),
    ],
)
def test_a_trace_finds_the_one_attention_that_carries_the_subject(trace_states, name, encoder, layer, place, column):
    """T5's also carries it to earlier tokens."""
    clip, (child, shape) = clip_named(name), CLIPS[name][encoder]
    with silent_but(clip, child, shape, layer):
        trace = trace_states(
            clip, lambda entry: entry[0][:, place], kind="self_attn", sites=f"text.{encoder}.*", controls=0
        )
    assert len({*trace.sites}) >= 2
    assert only_cell(trace, f"text.{encoder}.{layer}.self_attn", column or trace.columns[-1])


@pytest.mark.parametrize("slot", range(3))
def test_a_trace_finds_the_one_tap_that_is_read(trace_states, slot):
    """Of Flux.2's three taps the last token's numbers are read in one alone."""
    third = slice(32 * slot, 32 * (slot + 1))
    trace = trace_states(clip_named("flux2"), lambda entry: entry[0][:, -1, third], kind="tap", controls=0)
    assert trace.sites == tuple(f"text.mistral.{layer}.tap" for layer in range(3))
    if slot:
        assert only_cell(trace, f"text.mistral.{slot}.tap", "[/INST]")
    else:
        # The embeddings: the last token's hold no subject yet.
        assert not trace.total_effects().any()
