"""Held keys: their outputs do not move, and the edit is the best one that leaves them alone (E12)."""

import pytest
import torch
from diff_quickfix.quickfix import HeldError, HeldSpan, Statistics, preserved_gram, solve, solve_residuals
from hypothesis import given
from hypothesis import strategies as st

WIDTH, OUT = 48, 40


def problem(n, hold, seed=0, preserve=0):
    """Nearly parallel keys, as a text encoder's are."""
    make = torch.Generator().manual_seed(seed)
    shared = 2 * torch.randn(WIDTH, generator=make)
    weight = torch.randn(OUT, WIDTH, generator=make) / WIDTH**0.5
    keys, held, kept = (shared + torch.randn(rows, WIDTH, generator=make) for rows in (n, hold, preserve))
    return weight, keys, torch.randn(n, OUT, generator=make), held, kept


@given(
    n=st.sampled_from([1, 5, 30, 60]),
    hold=st.integers(1, 40),
    preserve=st.sampled_from([0, 7]),
    lam=st.sampled_from([1e-4, 1e-2, 1.0]),
    seed=st.integers(0, 50),
)
def test_held_outputs_stay_in_fp32_however_strong_the_edit(n, hold, preserve, lam, seed):
    weight, keys, values, held, kept = problem(n, hold, seed, preserve)
    update = solve(weight, keys, values, lam=lam, preserve=kept, held=HeldSpan.of(held))
    before = held @ weight.T
    after = held @ (weight + update.delta()).T
    assert ((after - before).norm(dim=1) <= 1e-5 * before.norm(dim=1)).all()
    assert update.rank == 0 or float((keys @ update.delta().T).norm()) > 0


@pytest.mark.parametrize("n", [4, 60])
@pytest.mark.parametrize("preserve", [0, 12])
def test_is_the_minimum_among_all_updates_that_hold(n, preserve):
    """Oracle: the problem written in a basis of the null space, with no constraint left, solved densely."""
    weight, keys, values, held, kept = problem(n, 9, preserve=preserve)
    free = torch.linalg.svd(held.double())[2][9:]
    k, p, residuals = keys.double() @ free.T, kept.double() @ free.T, (values - keys @ weight.T).double()
    system = k.T @ k + 0.7 * p.T @ p + 0.05 * torch.eye(len(free), dtype=torch.float64)
    exact = torch.linalg.solve(system, k.T @ residuals).T @ free
    update = solve(weight, keys, values, lam=0.05, preserve=kept, preserve_weight=0.7, held=HeldSpan.of(held))
    assert float((update.delta().double() - exact).norm() / exact.norm()) < 1e-5


@given(n=st.integers(2, 90), lam=st.sampled_from([1e-3, 0.1]))
def test_streamed_equals_at_once(n, lam):
    weight, keys, values, held, kept = problem(n, 12, preserve=5)
    residuals, span = values - keys @ weight.T, HeldSpan.of(held)
    sums = Statistics.empty(WIDTH, OUT).add(keys, residuals)
    arguments = {"lam": lam, "kept": preserved_gram(kept, held=span), "held": span}
    at_once, streamed = solve_residuals(keys, residuals, **arguments), sums.solve(**arguments)
    torch.testing.assert_close(streamed.delta(), at_once.delta(), rtol=1e-4, atol=1e-5)
    left = float((residuals.double() - keys.double() @ streamed.delta().double().T).square().sum())
    assert sums.remaining(streamed) == pytest.approx(left, rel=1e-4, abs=1e-6)


def test_a_heavy_soft_weight_comes_near_to_holding():
    weight, keys, values, held, _ = problem(5, 10)
    hard = solve(weight, keys, values, lam=0.1, held=HeldSpan.of(held)).delta()
    errors = [
        float((solve(weight, keys, values, lam=0.1, preserve=held, preserve_weight=beta).delta() - hard).norm())
        for beta in (1.0, 1e3, 1e6)
    ]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 * float(hard.norm())


def test_rank_counts_directions_not_keys_and_ignores_rounding():
    make = torch.Generator().manual_seed(3)
    directions = torch.randn(6, WIDTH, generator=make)
    keys = torch.randn(100, 6, generator=make) @ directions
    span = HeldSpan.of(keys)
    assert span.rank == 6
    torch.testing.assert_close(span.basis @ span.basis.T, torch.eye(6, dtype=torch.float64))
    assert HeldSpan.of(torch.cat((keys, 1000 * keys))).rank == 6
    assert HeldSpan.of(torch.zeros(3, WIDTH)).rank == 0 == HeldSpan.of(torch.zeros(0, WIDTH)).rank
    rows = torch.randn(5, WIDTH, generator=make)
    apart = span.project(rows)
    assert (apart @ directions.double().T).abs().max() < 1e-5
    torch.testing.assert_close(span.project(apart), apart)
    gram = rows.double().T @ rows.double()
    torch.testing.assert_close(span.project_gram(gram), apart.T @ apart)
    assert span.share(gram) == pytest.approx(1 - float(apart.square().sum() / rows.double().square().sum()))


def test_holding_everything_or_the_concept_itself_is_refused():
    weight, keys, values, held, _ = problem(5, 100)
    with pytest.raises(HeldError, match="100 distinct token keys, which span all 48 dimensions"):
        HeldSpan.of(held)
    span = HeldSpan.of(keys)
    many = torch.rand(70, 5) @ keys
    for inside in (keys, 2 * keys[:1], many):
        with pytest.raises(HeldError, match="lie in the span of the prompts to hold"):
            solve(weight, inside, torch.ones(len(inside), OUT), lam=0.1, held=span)
    assert solve(weight, held[:3], values[:3], lam=0.1, held=span).rank == 3


def test_condition_is_the_condition_number_where_keys_do_not_span_all():
    """Oracle: singular values of the dense system."""
    _, keys, values, held, kept = problem(8, 10, preserve=6)
    span = HeldSpan.of(held)
    sums = Statistics.empty(WIDTH, OUT).add(keys, values)
    for arguments in ({}, {"preserve": kept, "preserve_weight": 2.0}, {"preserve": kept, "held": span}):
        k, p = (span.project(rows) if "held" in arguments else rows.double() for rows in (keys, kept))
        system = k.T @ k + 0.3 * torch.eye(WIDTH, dtype=torch.float64)
        if "preserve" in arguments:
            system += arguments.get("preserve_weight", 1.0) * p.T @ p
        expected = float(torch.linalg.cond(system))
        gram = preserved_gram(**{"preserve": None, **arguments})
        found = sums.condition(lam=0.3, kept=gram, held=arguments.get("held"))
        assert found == pytest.approx(expected, rel=0.01)
