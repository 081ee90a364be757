"""Verdicts on the paper's claims, over made-up traces and edits of which it is known what they should say."""

import dataclasses

import pytest
import torch
from diff_quickfix.reproduce.edits import IN_IMAGE_MODEL, EditResult, Painted
from diff_quickfix.reproduce.verdicts import (
    FAILS,
    HOLDS,
    LAST,
    RULES,
    UNKNOWN,
    Mean,
    claims,
    cross_verdict,
    drop_verdict,
    drops,
    figures,
    layer_verdict,
    spread_verdict,
    text_verdict,
    verdicts_of,
)
from diff_quickfix.tracing.results.trace import CausalTrace

TEXT = ("text.0.self_attn", "text.1.self_attn", "text.2.self_attn", "text.0.mlp")
UNET = ("unet.mid.a0.self_attn", "unet.mid.r0.resnet", "unet.mid.a0.cross_attn", "unet.up.1.a0.cross_attn")


def trace(effects, sites=TEXT, columns=(LAST, "all"), prompts=12, noise=0.02, component="text"):
    """A trace whose cells have these effects, but for noise; the controls have none."""
    rng = torch.Generator().manual_seed(3)
    wanted = torch.tensor(effects, dtype=torch.float32)
    wanted = wanted[:, None].expand(-1, len(columns)) if wanted.ndim == 1 else wanted
    corrupted = -1.0 + 0.1 * torch.randn(prompts, 1, 1, generator=rng)
    restored = corrupted[..., None, None] + wanted + noise * torch.randn(prompts, 1, 1, *wanted.shape, generator=rng)
    return CausalTrace(
        component=component,
        sites=tuple(sites),
        columns=tuple(columns),
        column_axis="token",
        prompts=tuple(f"a thing {number}" for number in range(prompts)),
        subjects=("thing",) * prompts,
        seeds=(0,),
        draws=1,
        clean=torch.zeros(prompts, 1),
        corrupted=corrupted,
        restored=restored,
        control=corrupted[..., None] + noise * torch.randn(prompts, 1, 1, 4, generator=rng),
        score="cosine",
        settings={},
    )


@pytest.mark.parametrize(
    ("effects", "wanted"),
    [
        ((0.9, 0.0, 0.0, 0.9), HOLDS),
        ((0.9, 0.3, 0.0, 0.0), HOLDS),
        ((0.9, 0.6, 0.0, 0.0), FAILS),
        ((0.0, 0.9, 0.0, 0.0), FAILS),
        ((0.0, 0.0, 0.0, 0.9), UNKNOWN),
    ],
)
def test_the_first_self_attention_is_alone_or_it_is_not(effects, wanted):
    found = text_verdict(trace(effects), "style")
    assert (found.claim, found.of, found.verdict) == ("text", "style", wanted)
    assert "text.0.self_attn" in found.why and "95 % interval" in found.why


def test_other_columns_do_not_count():
    effects = [[0.9, 0.1], [0.0, 0.9], [0.0, 0.9], [0.9, 0.9]]
    assert text_verdict(trace(effects), "style").verdict == HOLDS
    assert text_verdict(trace(effects, columns=("all", LAST)), "style").verdict == FAILS


def test_few_prompts_let_nothing_be_told():
    found = text_verdict(trace((0.9, 0.0, 0.0, 0.0), prompts=5), "style")
    assert found.verdict == UNKNOWN and "5 prompts" in found.why and "6 are needed" in found.why
    assert spread_verdict(trace((0.9,) * 4, UNET, ("all steps",), 5, component="unet"), "x").verdict == UNKNOWN


def test_two_first_layers_of_two_encoders_are_not_alone():
    sites = ("text.l.0.self_attn", "text.l.1.self_attn", "text.g.0.self_attn", "text.g.1.self_attn")
    both = text_verdict(trace((0.8, 0.0, 0.9, 0.0), sites), "style")
    assert both.verdict == FAILS and "text.l.0.self_attn" in both.why
    assert text_verdict(trace((0.0, 0.0, 0.9, 0.0), sites), "style").verdict == HOLDS
    assert text_verdict(trace((0.9, 0.0), sites[1::2]), "style").verdict == UNKNOWN


@pytest.mark.parametrize(
    ("effects", "spread", "cross"),
    [
        ((0.9, 0.8, 0.7, 0.0), HOLDS, FAILS),
        ((0.9, 0.0, 0.0, 0.0), FAILS, HOLDS),
        ((0.9, 0.8, 0.0, 0.0), UNKNOWN, HOLDS),
        ((0.0, 0.0, 0.0, 0.0), UNKNOWN, UNKNOWN),
        ((0.0, 0.0, 0.9, 0.0), FAILS, FAILS),
    ],
)
def test_the_unet_is_spread_and_its_cross_attention_counts_or_not(effects, spread, cross):
    found = trace(effects, UNET, ("all steps",), component="unet")
    assert (spread_verdict(found, "x").verdict, cross_verdict(found, "x").verdict) == (spread, cross)
    other = dataclasses.replace(found, sites=tuple(name.replace("unet.", "dit.") for name in UNET))
    assert {spread_verdict(other, "x").verdict, cross_verdict(other, "x").verdict} == {UNKNOWN}


def edit(experiment, drop, layer=0, scored=True, title="a -> b", spread=0.01):
    values = [drop + spread * (number - 2.5) for number in range(6)]
    painted = [Painted(f"p{n}", True, 0.5, *((0.3, 0.3 - v) if scored else ())) for n, v in enumerate(values)]
    painted.append(Painted("other", False, 0.1, *((0.3, 0.29) if scored else ())))
    return EditResult(experiment, title, layer, True, "cosine" if scored else "", tuple(painted), "k")


def layers(*values, **more):
    return [edit("layers", value, layer, **more) for layer, value in enumerate(values)]


def test_the_layer_of_the_edit():
    assert layer_verdict(layers(0.2, 0.0, 0.1)).verdict == HOLDS
    assert layer_verdict(layers(0.2, 0.0, 0.3)).verdict == FAILS
    assert layer_verdict(layers(-0.2, -0.4)).verdict == FAILS
    assert layer_verdict(layers(0.02, 0.0, 0.02)).verdict == UNKNOWN
    assert layer_verdict(layers(0.2, 0.0, scored=False)).verdict == UNKNOWN
    assert layer_verdict([]).verdict == UNKNOWN and layer_verdict(layers(0.2)).verdict == UNKNOWN
    assert "layer 2" in layer_verdict(layers(0.2, 0.0, 0.3)).why


def test_concepts_leave_by_the_scorer_alone():
    good, bad = edit("single", 0.2), edit("single", -0.2, title="c -> d")
    assert drop_verdict("single", [good]).verdict == HOLDS
    assert drop_verdict("single", [good, bad]).verdict == FAILS
    assert drop_verdict("single", [good, edit("single", 0.001, title="e -> f")]).verdict == UNKNOWN
    assert drop_verdict("single", [good, edit("single", 0.2, scored=False, title="g")]).verdict == UNKNOWN
    assert drop_verdict("ten", [good]).verdict == UNKNOWN
    elsewhere = drop_verdict("single", [edit("single", 0.2, layer=IN_IMAGE_MODEL)])
    assert elsewhere.verdict == UNKNOWN and "not the paper's edit" in elsewhere.why
    assert drops(good) == pytest.approx([0.2 + 0.01 * (n - 2.5) for n in range(6)])
    assert drops(good, names=False) == pytest.approx([0.01])


def test_a_mean_has_an_interval_of_two_prompts_on():
    assert Mean.of([]) is None and "one prompt" in Mean.of([1.0]).text()
    found = Mean.of([1.0, 2.0, 3.0])
    assert found.low < found.mean == 2.0 < found.high


def test_every_claim_has_a_rule_a_source_and_a_verdict():
    names = [one["id"] for one in claims()]
    assert set(names) == set(RULES) and all("2310.13730" in one["source"] for one in claims())
    assert {one.claim for one in verdicts_of({}, [])} == set(names)
    assert {one.verdict for one in verdicts_of({}, [])} == {UNKNOWN}
    assert {one["experiment"] for one in figures()} <= {one["experiment"] for one in claims()}
    assert all(one["source"] and one["model"] for one in figures())
