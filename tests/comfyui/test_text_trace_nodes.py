"""The tracing nodes on CLIPs with several text encoders: pooled vectors, other tokens, Shapes XL."""

import pytest
import torch
from runs import sweep_inputs
from small_sdxl import small_model
from traced_clips import PROMPT, clip_named, trace_states, tracing

__all__ = ["trace_states", "tracing"]

pytestmark = pytest.mark.usefixtures("inference")


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
