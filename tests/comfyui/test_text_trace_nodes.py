"""The tracing nodes on CLIPs with several text encoders: planted knowledge, pooled vectors, Shapes XL."""

import pytest
import torch
from runs import sweep_inputs
from small_sdxl import small_clip, small_model
from traced_clips import PROMPT, clip_named, tracing

__all__ = ["tracing"]

pytestmark = pytest.mark.usefixtures("inference")


class Vae:
    """In place of a VAE: "pictures" of any result."""

    def decode(self, results):
        return torch.zeros(len(results), 8, 8, 3)


@pytest.fixture
def trace_states(nodes, monkeypatch):
    """Run the tracing node on a CLIP with a painter that gives the text states at one token, or the pooled vector."""
    from pack_under_test.nodes.host.tracing import causal_trace

    def run(clip, read, **changes):
        def painter(*args, **kwargs):
            return lambda conditioning, seed, patches: read(conditioning[0])

        inputs = sweep_inputs((small_model(), clip, Vae()), prompts=PROMPT.replace("van gogh", "[van gogh]"), **changes)
        with monkeypatch.context() as patch:
            patch.setattr(causal_trace, "make_painter", painter)
            patch.setattr(causal_trace, "vae_parts", lambda vae: {})
            return nodes["DiffQuickFix_CausalTraceText"].execute(**{"columns": "tokens", **inputs}).args[0]

    return run


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
    found, kind, site, _, report = run("LocateCausalState", trace, "self_attn").args
    assert (found, kind, site) == (layer, "self_attn", f"text.g.{layer}.self_attn") and "'<end>'" in report
    # CLIP-L carries nothing: hidden in it alone, the subject is not missed.
    deaf = trace_states(clip, at_the_end, kind="self_attn", controls=0, encoder="l")
    assert float(deaf.total_effects().abs().max()) == 0 and {site[:7] for site in deaf.sites} == {"text.l."}


def test_pooled_cells_stand_where_the_vector_is_read(trace_states, run):
    trace = trace_states(
        clip_named("sdxl"),
        lambda entry: entry[1]["pooled_output"],
        kind="all",
        sites="text.g.*",
        columns="places",
        controls=3,
    )
    row = trace.restored[0, 0, 0, trace.sites.index("text.g.pooled")]
    measured = [column for column, value in zip(trace.columns, row, strict=True) if value.isfinite()]
    assert measured == ["subject and later", "end of text", "all"]
    assert trace.restored[0, 0, 0, : trace.sites.index("text.g.pooled")].isfinite().all()
    # Put back, it is the clean vector.
    assert row[row.isfinite()].abs().max() < 1e-6 and float(trace.corrupted) < -0.01
    found, kind, site, *_ = run("LocateCausalState", trace, "pooled").args
    assert (found, kind, site) == (-1, "pooled", "text.g.pooled")


def test_encoders_of_other_tokens_share_places_only(trace_states):
    clip = clip_named("flux")
    with pytest.raises(ValueError, match=r"l and t5 cut the prompt into different tokens .* sites: text\.t5\.\*"):
        trace_states(clip, lambda entry: entry[0][:, -1])
    trace = trace_states(clip, lambda entry: entry[0][:, 0], kind="hidden", columns="places", controls=0)
    assert trace.columns[0] == "earlier tokens"
    values = dict(zip(trace.sites, trace.restored[0, 0, 0, :, 0], strict=True))
    # CLIP-L's earlier tokens never see the subject: nothing to restore. T5's first state is the one that is read.
    assert not values["text.l.0.hidden"].isfinite() and abs(float(values["text.t5.1.hidden"])) < 1e-5
    tokens = trace_states(clip, lambda entry: entry[0][:, 0], sites="text.t5.*", controls=0)
    assert tokens.columns.index("photo") < tokens.columns.index("van") and tokens.restored.isfinite().all()


@pytest.mark.parametrize(
    ("clip", "settings", "message"),
    [
        ("sdxl", {"encoder": "t5"}, "no text encoder 't5': found l, g"),
        ("flux", {"replaced_by": "the president of the united states of america"}, "at most"),
        ("z-image", {"replaced_by": "the president of the united states"}, "the text encoder qwen: .*at most"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(tracing, clip, settings, message):
    with pytest.raises(ValueError, match=message):
        tracing[0](clip_named(clip), **settings)


def test_a_restored_unet_has_a_clean_pooled_vector_beside_it(run, restore_unet):
    """SDXL's UNet reads it: with every block put back from a clean run, the picture is the clean prompt's."""
    import nodes as stock_nodes

    model, clip = small_model(), clip_named("sdxl")
    corrupted, clean, corruption = run("CorruptPrompt", clip, PROMPT, "van gogh", 3.0, 0).args
    negative = stock_nodes.CLIPTextEncode().encode(clip, "")[0]

    def paint(painter, positive):
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        return stock_nodes.common_ksampler(painter, 3, 2, 4.0, "euler", "normal", positive, negative, latent)[0][
            "samples"
        ]

    wanted = paint(model, clean)
    found = paint(restore_unet(model, corruption, "*.block"), corrupted)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(wanted, paint(model, corrupted), atol=1e-2)


@pytest.mark.newest
def test_shapes_xl_is_traced_over_both_its_towers(nodes, run):
    """What is shipped, through the stock sampler: clean and corrupted pictures are the stock nodes' own."""
    import nodes as stock_nodes

    model, clip, vae = run("LoadShapesDemo", variant="Shapes XL").args
    text, words = "a red star on grass, in the style of gustav klimt", "frank stella"
    negative = stock_nodes.CLIPTextEncode().encode(clip, "")[0]
    latent = {"samples": torch.zeros(1, 16, 16, 16)}
    inputs = sweep_inputs(
        (model, clip, vae),
        prompts=text.replace("gustav klimt", "[gustav klimt]"),
        latent=latent,
        negative=negative,
        kind="all",
        sites="text.?.0.self_attn, text.g.pooled",
        replaced_by=words,
        steps=3,
        cfg=5.0,
        controls=0,
        columns="tokens",
    )
    trace, pictures = nodes["DiffQuickFix_CausalTraceText"].execute(**inputs).args
    assert trace.sites == ("text.l.0.self_attn", "text.g.0.self_attn", "text.g.pooled")
    assert pictures.shape == (3, 128, 128, 3) and float(trace.total_effects()) > 0.05
    pooled = trace.restored[0, 0, 0, 2]
    assert [column for column, value in zip(trace.columns, pooled, strict=True) if value.isfinite()] == ["<end>"]
    hidden, clean, corruption = run("CorruptPrompt", clip, text, "gustav klimt", 3.0, 0, words).args
    stock_states = stock_nodes.CLIPTextEncode().encode(clip, text)[0]
    torch.testing.assert_close(clean[0][0], stock_states[0][0], atol=2e-5, rtol=1e-4)
    restored = run("RestoreTextState", corruption, 0, "pooled", "all", "g").args[0]
    reference, other, put_back = (
        stock_nodes.common_ksampler(model, 0, 3, 5.0, "ddim", "normal", positive, negative, latent)[0]["samples"]
        for positive in (stock_states, hidden, restored)
    )
    for place, made in enumerate((reference, other)):
        torch.testing.assert_close(pictures[place], vae.decode(made)[0], atol=2e-3, rtol=1e-2)
    score = -float((put_back - reference).square().mean().sqrt())
    assert score == pytest.approx(float(pooled[pooled.isfinite()]), rel=2e-2)
