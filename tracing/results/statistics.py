"""How sure averages over prompts are, as functions of arrays: intervals, resampled means and ranks, rank correlation.

What is independent of another is a prompt: its seeds and noise draws share its words, so their mean is one value.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch

RESAMPLES = 2000
_RESAMPLED_AT_ONCE = 250


def prompt_means(effects: torch.Tensor) -> torch.Tensor:
    """The mean of each prompt's runs: (P, S, D, ...) to (P, ...). NaN is left out."""
    return effects.nanmean((1, 2))


def resampled_means(values: torch.Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> torch.Tensor:
    """Means of prompts drawn with replacement; (P, ...) to (resamples, ...). NaN is left out."""
    count = len(values)
    drawn = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(resamples, count).scatter_add_(1, drawn, torch.ones(resamples, count))
    flat, known = values.nan_to_num(0).flatten(1), values.isfinite().float().flatten(1)
    return ((weights @ flat) / (weights @ known)).reshape(resamples, *values.shape[1:])


def first_shares(effects: torch.Tensor, *, resamples: int = RESAMPLES, seed: int = 0) -> torch.Tensor:
    """How stable ranks are: the share of resamples in which each cell has the largest mean; (P, S, D, ...) to (...).

    A resample draws prompts with replacement, and for each drawn prompt its seeds; noise draws are averaged. Cells that
    are first together share the resample. The shares sum to one. Cells that were not measured in a resample are not
    first; all is NaN where fewer than two prompts were measured, since one has no other to be exchanged for.
    """
    runs = effects.nanmean(2).flatten(2).float()
    prompts, seeds, cells = runs.shape
    if int(runs.isfinite().any(2).any(1).sum()) < 2:
        return torch.full(effects.shape[3:], torch.nan)
    flat, known = runs.nan_to_num(0).flatten(0, 1), runs.isfinite().float().flatten(0, 1)
    generator = torch.Generator().manual_seed(seed)
    shares = torch.zeros(cells)
    for start in range(0, resamples, _RESAMPLED_AT_ONCE):
        count = min(_RESAMPLED_AT_ONCE, resamples - start)
        drawn = torch.randint(prompts, (count, prompts, 1), generator=generator) * seeds
        drawn = (drawn + torch.randint(seeds, (count, prompts, seeds), generator=generator)).flatten(1)
        weights = torch.zeros(count, prompts * seeds).scatter_add_(1, drawn, torch.ones(drawn.shape))
        means = ((weights @ flat) / (weights @ known)).nan_to_num(-torch.inf)
        first = means == means.amax(1, keepdim=True)
        shares += (first / first.sum(1, keepdim=True)).sum(0)
    return (shares / resamples).reshape(effects.shape[3:])


def mean_interval(values: torch.Tensor, *, level: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
    """An interval for the mean over the population of prompts: (P, ...) to lower and upper bounds (...).

    Student's interval, widened on either side to where its form corrected for skewness reaches farther (Hall 1992, "On
    the removal of skewness by transformation"): the plain form covers too little where values are skewed, the
    corrected one where their tails are heavy. docs/statistics.md tells the measured coverage.

    NaN where fewer than two prompts were measured: one has no spread.
    """
    held = values.isfinite()
    count = held.sum(0)
    mean = values.nanmean(0)
    strays = torch.where(held, values - mean, 0.0).double()
    spread = (strays.square().sum(0) / (count - 1).clamp_min(1)).sqrt()
    skewness = strays.pow(3).sum(0) / count / (strays.square().sum(0) / count).pow(1.5)
    skewness = skewness.nan_to_num(0.0)
    quantile = torch.zeros(count.shape, dtype=torch.float64)
    for number in count.unique().tolist():
        if number > 1:
            quantile[count == number] = _student((1 - level) / 2, number - 1)
    reach = quantile / count.sqrt()
    ends = []
    for sign in (-1, 1):
        # The end on this side belongs to the quantile on the other.
        farthest = torch.maximum(reach, -sign * _unskewed(-sign * reach, skewness, count))
        ends.append((mean + sign * spread * farthest).float().masked_fill(count < 2, torch.nan))
    return ends[0], ends[1]


def _unskewed(value: torch.Tensor, skewness: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """x at which Hall's cubic x + g x^2 / 3 + g^2 x^3 / 27 + g / (6 n) takes a value; g is the skewness."""
    base = 1 + skewness * (value - skewness / (6 * count))
    root = base.sign() * base.abs().pow(1 / 3)
    plain = skewness.abs() < 1e-3
    return torch.where(plain, value, 3 * (root - 1) / torch.where(plain, 1.0, skewness))


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


def spearman(one: torch.Tensor, other: torch.Tensor) -> float:
    """Spearman's correlation of two arrays of one shape, over the cells that are finite in both; (-1, 1).

    Ties share their mean rank. NaN where either is constant or fewer than two cells are shared.
    """
    values = torch.stack([one.flatten(), other.flatten()])
    ranks = torch.stack([_ranks(row) for row in values[:, values.isfinite().all(0)]])
    return float(torch.corrcoef(ranks)[0, 1]) if ranks.shape[1] > 1 else math.nan


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Ranks from 0, ties at their mean."""
    below = (values[:, None] > values).sum(1)
    equal = (values[:, None] == values).sum(1)
    return below + (equal - 1) / 2
