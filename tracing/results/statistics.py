"""How sure a trace is: bootstrap confidence of each cell, and the cells that beat the null.

A *unit* is what is independent of another: a prompt when there are several, else one seed with one noise draw.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

from .trace import CausalTrace, TraceError

RESAMPLES = 2000
SMALLEST_SHARE = 0.02
LEAST_CONTROLS = 4


def units(effects: torch.Tensor) -> torch.Tensor:
    """Effects of each independent unit: (P, S, D, ...) to (units, ...)."""
    return effects.nanmean((1, 2)) if len(effects) > 1 else effects[0].flatten(0, 1)


def resampled_means(values: torch.Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> torch.Tensor:
    """Means of units drawn with replacement; (units, ...) to (resamples, ...). NaN is left out."""
    count = len(values)
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(resamples, count).scatter_add_(1, drawn, torch.ones(resamples, count))
    flat, known = values.nan_to_num(0).flatten(1), values.isfinite().float().flatten(1)
    return ((weights @ flat) / (weights @ known)).reshape(resamples, *values.shape[1:])


def confidence_interval(
    trace: CausalTrace, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Percentile bootstrap of the average indirect effect: lower and upper bound, (L, K) each.

    NaN where fewer than two units were measured: one run has no spread. With only a handful of units a percentile
    bootstrap is narrow: it has seen too little.
    """
    values = units(trace.indirect_effects())
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
    # Some versions of torch take quantiles of 16 million numbers at most.
    bounds = torch.cat(
        [
            resampled_means(part, resamples=resamples, seed=seed).nanquantile(ends, dim=0)
            for part in values.flatten(1).split(max(1, 4_000_000 // resamples), dim=1)
        ],
        dim=1,
    )
    bounds = bounds.reshape(2, *values.shape[1:]).masked_fill(values.isfinite().sum(0) < 2, torch.nan)
    return bounds[0], bounds[1]


def null_interval(trace: CausalTrace, *, level: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
    """Where the average effects of cells that do nothing would lie, all of them at once: lower and upper, (L, K) each.

    Each unit's controls stand for cells that do nothing in it. The interval of a cell is centred on the mean control of
    the units it was measured in (what all runs of a unit share cancels), and as wide as the spread of the controls
    within a unit allows for that many units: Student's quantile at (1 - level) / cells, two-sided (Bonferroni). With
    one control a unit the spread is that between units. A cell measured in part of a unit's runs gets a wider interval.

    NaN with fewer than four control runs, and for cells that were not measured.
    """
    effects, controls = trace.indirect_effects(), units(trace.control_effects())
    cells, held = units(effects).isfinite(), controls.isfinite()
    low = torch.full(cells.shape[1:], torch.nan)
    if int(trace.control.isfinite().sum()) < LEAST_CONTROLS:
        return low, low.clone()
    number = held.sum(1)
    overall = controls.nanmean()
    centres = controls.nanmean(1).nan_to_num(float(overall))
    freedom = int(held.sum() - (number > 0).sum())
    strays = controls - (centres[:, None] if freedom else overall)
    freedom = freedom or int(held.sum()) - 1
    if freedom < 1:
        return low, low.clone()
    spread = (strays.square().nansum() / freedom).sqrt()
    count = cells.sum(0)
    weights = cells * (1 + 1 / number.clamp(min=1))[:, None, None]
    # Share of a unit's runs that a cell was measured in.
    share = units(effects.isfinite().float())
    variance = torch.where(cells, weights / share, 0).sum(0) / count.square()
    centre = (cells * centres[:, None, None]).sum(0) / count
    margin = _student((1 - level) / (2 * max(1, int((count > 0).sum()))), freedom) * spread * variance.sqrt()
    low, high = ((centre + sign * margin).masked_fill(count == 0, torch.nan) for sign in (-1, 1))
    return low, high


def beats_control(trace: CausalTrace, *, level: float = 0.95, smallest: float = SMALLEST_SHARE) -> torch.Tensor:
    """Cells whose average indirect effect the null does not explain, (L, K) bool.

    A cell beats the null when its effect lies outside its :func:`null_interval`, which allows for looking at all cells;
    when its own :func:`confidence_interval`, where there is one, leaves the middle of the null interval out; and when
    it is no trifle. With fewer than four control runs nothing does.

    Args:
        smallest: a cell below this share of the mean total effect is a trifle: with a null of nearly nothing, anything
            that is not exactly nothing would be significant.
    """
    effects = units(trace.indirect_effects()).nanmean(0)
    null_low, null_high = null_interval(trace, level=level)
    low, high = confidence_interval(trace, level=level)
    middle = (null_low + null_high) / 2
    outside = (effects < null_low) | (effects > null_high)
    large = effects.abs() >= smallest * trace.total_effects().nanmean().abs()
    return outside & large & ~((low <= middle) & (middle <= high))


def _student(tail: float, freedom: int) -> float:
    """The value that Student's t with so many degrees of freedom exceeds with probability ``tail`` < 0.5.

    With t = sqrt(freedom) tan(angle), the density is cos(angle) ** (freedom - 1) up to a constant.
    """
    if freedom > 1000:
        return NormalDist().inv_cdf(1 - tail)
    angles = torch.linspace(math.pi / 2, 0, 200_001, dtype=torch.float64)
    above = -torch.cumulative_trapezoid(angles.cos().pow(freedom - 1), angles)
    place = int(torch.searchsorted(above, 2 * tail * above[-1]))
    return math.sqrt(freedom) * math.tan(float(angles[place + 1]))


def rank_correlation(one: CausalTrace, other: CausalTrace) -> float:
    """Spearman's correlation of two traces' average indirect effects over the cells that both measured; (-1, 1).

    Ties share their mean rank. NaN where either is constant or fewer than two cells are shared.

    Raises:
        TraceError: the traces have other sites or columns.
    """
    if (one.sites, one.columns) != (other.sites, other.columns):
        raise TraceError("Ranks are compared over the same sites and columns; these traces have different ones.")
    values = torch.stack([trace.average_indirect_effect().flatten() for trace in (one, other)])
    ranks = torch.stack([_ranks(row) for row in values[:, values.isfinite().all(0)]])
    return float(torch.corrcoef(ranks)[0, 1]) if ranks.shape[1] > 1 else math.nan


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 0, ties at their mean."""
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below + (equal - 1) / 2
