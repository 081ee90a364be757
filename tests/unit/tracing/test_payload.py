"""What a page is sent of a trace: JSON numbers of the right shape and size, whatever the trace holds."""

import json
import math

import pytest
import torch
from diff_quickfix.tracing.results.judgement import judge
from diff_quickfix.tracing.results.locate import layer_of
from diff_quickfix.tracing.results.payload import heatmap_payload
from diff_quickfix.tracing.results.trace import CausalTrace, TraceError

MATRICES = ("effect", "recovery", "restored", "low", "high", "significance", "p", "q", "first")
MATRICES += ("beats_control", "hatched")


def make(sites=("text.0.self_attn", "text.1.mlp"), columns=("gogh", "<end>"), controls=8, number=8, **labels):
    rng = torch.Generator().manual_seed(1)
    corrupted = torch.rand(number, 1, 2, generator=rng)
    restored = corrupted[..., None, None] + 0.01 * torch.randn(number, 1, 2, len(sites), len(columns), generator=rng)
    restored[..., 0, 0] += 0.5
    fields = {"prompts": ("a",) * number, "subjects": ("a",) * number, "score": "cosine", **labels}
    return CausalTrace(
        component="text",
        column_axis="token",
        seeds=(0,),
        draws=2,
        sites=sites,
        columns=columns,
        clean=torch.full((number, 1), 2.0),
        corrupted=corrupted,
        restored=restored,
        control=corrupted[..., None] + 0.01 * torch.randn(number, 1, 2, controls, generator=rng),
        **fields,
    )


def with_gap(trace, row, column):
    restored = trace.restored.clone()
    restored[..., row, column] = torch.nan
    return CausalTrace(**{**vars(trace), "restored": restored})


def test_the_numbers_are_those_of_the_trace():
    trace = make()
    payload = heatmap_payload(trace)
    for name, values in (("effect", trace.average_indirect_effect()), ("recovery", trace.recovery())):
        assert torch.allclose(torch.tensor(payload[name]), values, rtol=1e-3)
    assert payload["restored"][0][0] - payload["corrupted"] == pytest.approx(payload["effect"][0][0], rel=1e-3)
    assert payload["low"][0][0] < payload["effect"][0][0] < payload["high"][0][0]
    found = judge(trace)
    assert payload["beats_control"] == found.verdict.tolist() == [[1, 0], [0, 0]]
    assert payload["hatched"] == found.hatched.float().tolist() and payload["judged"] is True
    assert (payload["clean"], payload["runs"], payload["controls"], payload["prompts"]) == (2.0, 16, 128, 8)


def test_a_cell_is_claimed_from_a_significance_of_one_on():
    significance = torch.tensor(heatmap_payload(make())["significance"])
    assert torch.equal(significance >= 1, torch.tensor([[True, False], [False, False]]))


def test_with_few_prompts_hatching_is_no_verdict():
    payload = heatmap_payload(make(number=2))
    assert payload["judged"] is False and payload["hatched"][0][0] == 0
    assert all(cell is None for row in payload["beats_control"] for cell in row)
    assert all(cell is None for row in heatmap_payload(make(number=1))["low"] for cell in row)


def test_what_was_not_measured_or_cannot_be_judged_is_none():
    payload = heatmap_payload(with_gap(make(), 1, 0))
    assert payload["effect"][1][0] is None and payload["effect"][1][1] is not None
    unjudged = heatmap_payload(make(controls=0))
    assert all(cell is None for name in ("beats_control", "significance") for row in unjudged[name] for cell in row)


def test_it_is_strict_json_and_small_with_the_texts_of_strangers_cut():
    columns = tuple(f"{i}\u202e\0<script>{'x' * 5000}" for i in range(40))
    payload = heatmap_payload(
        make(
            tuple(f"text.{i}.mlp" for i in range(100)),
            columns,
            prompts=("\ud800" * 9999,) * 8,
            score="y" * 9999,
        )
    )
    text = json.dumps(payload, allow_nan=False)
    assert len(text) < 400_000
    shapes = {(len(payload[name]), *{len(row) for row in payload[name]}) for name in MATRICES}
    assert shapes == {(100, 40)}
    labels = (*payload["columns"], payload["prompt"], payload["score"])
    assert all(len(label) <= 120 and label.isprintable() for label in labels)
    numbers = [cell for name in MATRICES for row in payload[name] for cell in row if cell is not None]
    assert all(math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("shape", [(1001, 1), (1, 401), (200, 31)])
def test_a_trace_too_large_for_a_page_is_refused(shape):
    sites, columns = (tuple(f"{i}" for i in range(count)) for count in shape)
    with pytest.raises(TraceError, match=f"{shape[0]} sites and {shape[1]} columns.*picture or the table"):
        heatmap_payload(make(sites, columns))


@pytest.mark.parametrize(
    ("site", "layer"),
    [
        ("text.0.self_attn", 0),
        ("text.11.mlp", 11),
        ("text.1..3.self_attn", None),
        ("unet.input.4.1.cross_attn", None),
        ("text.x.mlp", None),
        ("text.3.self_attn.more", None),
    ],
)
def test_only_single_sites_of_the_text_encoder_have_a_layer(site, layer):
    assert layer_of(site) == layer
