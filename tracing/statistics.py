"""How sure a trace is: bootstrap confidence of each cell, and the cells that beat the null.

A *unit* is what is independent of another: a prompt when there are several, else one seed with one noise draw.
"""

from __future__ import annotations

from statistics import NormalDist

import torch

from .result import CausalTrace

RESAMPLES = 2000
SMALLEST_SHARE = 0.02


def units(trace: CausalTrace) -> torch.Tensor:
    """Indirect effects of each independent unit, (units, L, K)."""
    effects = trace.indirect_effects()
    return effects.nanmean((1, 2)) if len(trace.prompts) > 1 else effects[0].flatten(0, 1)


def resampled_means(values: torch.Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> torch.Tensor:
    """Means of units drawn with replacement; (units, ...) to (resamples, ...). NaN is left out."""
    count = len(values)
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(resamples, count).scatter_add_(1, drawn, torch.ones(resamples, count))
    flat, known = values.nan_to_num(0).flatten(1), values.isfinite().float().flatten(1)
    return ((weights @ flat) / (weights @ known)).unflatten(1, values.shape[1:])


def confidence_interval(
    trace: CausalTrace, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Percentile bootstrap of the average indirect effect: lower and upper bound, (L, K) each.

    NaN with fewer than two units: one run has no spread.
    """
    values = units(trace)
    if len(values) < 2:
        empty = torch.full(values.shape[1:], torch.nan)
        return empty, empty.clone()
    means = resampled_means(values, resamples=resamples, seed=seed)
    low, high = means.quantile((1 - level) / 2, dim=0), means.quantile((1 + level) / 2, dim=0)
    return low, high


def beats_control(
    trace: CausalTrace, *, level: float = 0.95, smallest: float = SMALLEST_SHARE
) -> torch.Tensor:
    """Cells whose average indirect effect the null does not explain, (L, K) bool.

    The null's effects have a mean and a standard deviation; the mean of a cell over n runs has that deviation over the
    square root of n. A cell beats the null when it lies further from the null's mean than the (1 - level) / cells
    quantile of the normal distribution allows (Bonferroni over all cells, two-sided), when the cell's own bootstrap
    interval leaves the null's mean out, and when it is no trifle. Without at least four control runs nothing does.

    Args:
        smallest: a cell below this share of the mean total effect is a trifle: with a null of nearly nothing, anything
            that is not exactly nothing would be significant.
    """
    effects = trace.average_indirect_effect()
    null = trace.control_effects().flatten()
    null = null[null.isfinite()]
    if len(null) < 4:
        return torch.zeros_like(effects, dtype=torch.bool)
    cells = max(1, int(effects.isfinite().sum()))
    quantile = NormalDist().inv_cdf(1 - (1 - level) / (2 * cells))
    runs = trace.indirect_effects().isfinite().sum((0, 1, 2)).clamp(min=1)
    margin = quantile * float(null.std()) / runs.sqrt()
    large = effects.abs() >= smallest * trace.total_effects().nanmean().abs()
    low, high = confidence_interval(trace, level=level)
    inside = (low <= null.mean()) & (null.mean() <= high)
    return large & ((effects - float(null.mean())).abs() > margin) & ~inside & effects.isfinite()
