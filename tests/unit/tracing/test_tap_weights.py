"""Weights of taps: the effects over their mean, never negative."""

import dataclasses

import pytest
from diff_quickfix.tracing.results.taps import tap_weights
from diff_quickfix.tracing.results.trace import TraceError
from noise_traces import make

TAPS = tuple(f"text.qwen.{layer}.tap" for layer in (2, 5, 8, 11))


def with_effects(effects, **labels):
    """A trace whose cells (taps, columns) have some effects in every run."""
    trace = make(sites=TAPS, noise=0.0, **labels)
    restored = trace.corrupted[..., None, None].expand(trace.restored.shape).clone()
    for row, cells in enumerate(effects):
        for column, effect in enumerate(cells):
            restored[..., row, column] += effect
    return dataclasses.replace(trace, restored=restored)


def test_weights_are_effects_over_their_mean():
    found = tap_weights(with_effects([(9, 9, 0.1), (0, 0, 0.3), (0, 0, -0.2), (0, 0, 0.0)]))
    assert found.layers == (2, 5, 8, 11) and found.column == "all"
    assert found.effects == pytest.approx((0.1, 0.3, -0.2, 0.0), abs=1e-6)
    assert found.weights == pytest.approx((1, 3, 0, 0), abs=1e-5)
    assert found.list() == "1.000, 3.000, 0.000, 0.000" and "5, +0.3000, 3.000" in found.text()


def test_without_a_column_of_all_tokens_it_is_where_the_taps_bring_back_the_most():
    effects = [(0.1, 0.2, 0), (0.1, 0.6, 0), (0.1, 0.0, 0), (0.1, 0.0, 1.0)]
    found = tap_weights(with_effects(effects, columns=("van", "gogh", "<end>")))
    assert found.column == "<end>" and found.weights == pytest.approx((0, 0, 0, 4), abs=1e-5)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        (tuple(f"text.{n}.mlp" for n in range(4)), "no taps"),
        ((*TAPS[:3], "text.qwen.2..qwen.5.tap"), "window"),
        ((*TAPS[:3], "text.g.2.tap"), "one text encoder"),
    ],
)
def test_what_are_no_single_taps_of_one_encoder_is_refused(sites, message):
    with pytest.raises(TraceError, match=message):
        tap_weights(make(sites=sites))


def test_taps_that_bring_nothing_back_have_no_weights():
    with pytest.raises(TraceError, match="nothing to weigh"):
        tap_weights(with_effects([(0, 0, -0.1)] * 4))
    gap = with_effects([(0, 0, 0.1)] * 4)
    restored = gap.restored.clone()
    restored[..., 2, 2] = float("nan")
    with pytest.raises(TraceError, match="let the trace run on"):
        tap_weights(dataclasses.replace(gap, restored=restored))
