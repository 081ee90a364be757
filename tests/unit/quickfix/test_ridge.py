"""The selective ridge: today's solve where nothing is selected, the optimum of its own objective elsewhere."""

import pytest
import torch
from diff_quickfix.quickfix import EditSettings, HeldSpan, SolveError, Statistics, preserved_gram, solve_residuals
from diff_quickfix.quickfix.solver.ridge import normalized, selective

WIDTH, OUT = 12, 7


def made(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    residuals = torch.randn(count, OUT, generator=generator, dtype=torch.float64)
    others = torch.randn(60, WIDTH, generator=generator, dtype=torch.float64) * torch.linspace(0.1, 3, WIDTH)
    preserve = torch.randn(5, WIDTH, generator=generator, dtype=torch.float64)
    return keys, residuals, normalized(others.T @ others), preserved_gram(preserve, 3.0)


def solved(keys, residuals, lam, kept, held=None):
    few = solve_residuals(keys, residuals, lam=lam, kept=kept, held=held).delta()
    sums = Statistics.empty(WIDTH, OUT).add(keys, residuals)
    many = sums.delta(lam=lam, kept=kept, held=held)
    torch.testing.assert_close(few.double(), many, rtol=1e-5, atol=1e-7)
    return many


def test_the_matrix_has_the_trace_of_the_identity():
    ridge = made(3)[2]
    assert float(ridge.trace()) == pytest.approx(WIDTH) and torch.equal(normalized(ridge * 8), normalized(ridge))
    for wrong in (torch.zeros(3, 3), torch.full((3, 3), torch.nan), torch.ones(2, 3)):
        with pytest.raises(SolveError):
            normalized(wrong)


@pytest.mark.parametrize("count", [4, 40])
def test_without_selectivity_it_is_todays_solve(count):
    _, _, ridge, kept = made(count)
    assert selective(0.1, kept, ridge, 0.0) == (0.1, kept) and selective(0.1, None, None, 0.9) == (0.1, None)
    # The identity as covariance is the identity as ridge, whatever the selectivity.
    keys, residuals, *_ = made(count)
    plain = solved(keys, residuals, 0.1, kept)
    same = solved(keys, residuals, *selective(0.1, kept, torch.eye(WIDTH, dtype=torch.float64), 0.7))
    torch.testing.assert_close(same, plain, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("count", [4, 40])
@pytest.mark.parametrize("selectivity", [0.5, 0.99])
def test_the_normal_equations_hold(count, selectivity, held):
    """The gradient of sum ||delta k - r||^2 + lam tr(delta C delta^T) + beta ||delta P||^2 is 0 where delta is free."""
    keys, residuals, ridge, kept = made(count, seed=count)
    span = HeldSpan.of(made(2, seed=5)[0]) if held else None
    charged, rest = ridge, kept
    if span is not None:
        charged, rest = span.project_gram(ridge), span.project_gram(kept)
    delta = solved(keys, residuals, *selective(0.3, rest, charged, selectivity), span)
    cost = 0.3 * ((1 - selectivity) * torch.eye(WIDTH, dtype=torch.float64) + selectivity * ridge) + kept
    gradient = delta @ (keys.T @ keys + cost) - residuals.T @ keys
    if span is not None:
        assert float((delta @ span.basis.T).abs().max()) < 1e-9
        gradient = span.project(gradient)
    assert float(gradient.abs().max()) < 1e-9 * float((residuals.T @ keys).abs().max())


def test_common_directions_are_charged_and_rare_ones_are_freed():
    keys, residuals, ridge, _ = made(1)
    common = torch.linalg.eigh(ridge)[1][:, -1]
    rare = torch.linalg.eigh(ridge)[1][:, 0]
    plain, chosen = (solved(keys, residuals, *selective(1.0, None, ridge, s)) for s in (0.0, 0.95))
    assert (chosen @ common).norm() < (plain @ common).norm() and (chosen @ rare).norm() > (plain @ rare).norm()


def test_settings_out_of_range_are_refused():
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="selectivity"):
            EditSettings(selectivity=wrong, breadth="short-1")
    with pytest.raises(ValueError, match="no list of names"):
        EditSettings(selectivity=0.5)
    with pytest.raises(ValueError, match="lambda cannot be found"):
        EditSettings(lam=None, selectivity=0.5, breadth="short-1")
    with pytest.raises(ValueError, match="breadth_weight"):
        EditSettings(breadth_weight=-1.0)
