"""Which cells of a trace bring back more than the control, or less: one test of all cells, by flipped signs.

What is independent of another is a prompt: its seeds and noise draws share its words. Each prompt and cell give one
*difference*: the cell's effect minus a control's, averaged over the prompt's runs. Where a cell does nothing that the
control does not do, the difference is as often on this side of zero as on that, so its sign may be flipped; flipping
whole prompts keeps what the cells share. Each cell's statistic is compared with the largest one of all cells under each
flip, then of all cells but the strongest, and so on (Westfall and Young 1993, step-down).

What is assumed: without an effect a difference is distributed symmetrically about zero. That is so where a cell and the
control have one distribution, however skewed (hence one control for each run and cell: the mean of several is less
skewed than the cell), and where both are symmetric, however much cells differ in spread. Cells that are skewed *and*
differ in spread are outside of it: docs/statistics.md says what becomes of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

# The observed signs and their opposite are two of 2 ** 6: with fewer prompts no p-value can be below 5 %.
LEAST_PROMPTS = 6
SMALLEST_SHARE = 0.02
# The share of the error rate that is spent; the rest is a margin for differences that are not quite symmetric.
_SPENT = 0.8
# For up to thirteen prompts these are all flips that there are.
_FLIPS = 4096
_CHUNK = 4_000_000


def paired_differences(effects: torch.Tensor, controls: torch.Tensor, *, first: int = 0) -> torch.Tensor:
    """Each prompt's mean of effect minus control over its runs, one control for each run and cell; (P, L, K).

    Neighbouring cells, and the same cell in the next prompt, are given the next control, so that all take part.
    A run whose effect or control was not measured is left out; NaN where none is left.

    Args:
        effects: (P, S, D, L, K) of prompts, seeds, noise draws and cells.
        controls: (P, S, D, C).
        first: the number of the first prompt among all, where these are some of them.
    """
    prompts, number = len(effects), controls.shape[-1]
    if not number:
        return effects.new_full((prompts, *effects.shape[3:]), torch.nan)
    cells = effects[0, 0, 0].numel()
    place = (torch.arange(first, first + prompts)[:, None] + torch.arange(cells)) % number
    paired = controls.gather(-1, place[:, None, None].expand(*controls.shape[:-1], cells))
    return (effects - paired.reshape(effects.shape)).nanmean((1, 2))


def family_wise_p(differences: torch.Tensor) -> torch.Tensor:
    """Two-sided p-values for all cells at once: units x cells (P, ...) to (...).

    The statistic of a cell is the sum of its differences over (their root sum of squares + the median of those over
    cells): the divisor does not change with the signs, makes cells of unequal spread comparable, and keeps a cell that
    hardly varies over a handful of prompts from passing for a large one. All flips are tried for up to thirteen
    prompts, else 4,096 drawn ones, the same for every trace: the result depends on the differences alone. Shares of
    flips are divided by 0.8, a margin for differences that are not quite symmetric.

    NaN where fewer than ``LEAST_PROMPTS`` prompts have a difference: none could be small enough.
    """
    return _p_values(differences, _step_down)


def cell_wise_p(differences: torch.Tensor) -> torch.Tensor:
    """Two-sided p-values of each cell for itself: units x cells (P, ...) to (...).

    The statistic and the flips are those of :func:`family_wise_p`. A cell's p-value is the share of all flips of all
    cells whose statistic reaches the cell's own: one cell's flips alone are too few for a small one (of ten prompts one
    in 512). Cells with an effect are among them, which makes the others' values rather too large. NaN where fewer than
    ``LEAST_PROMPTS`` prompts have a difference.
    """
    return _p_values(differences, _each_alone)


def q_values(p: torch.Tensor) -> torch.Tensor:
    """Benjamini and Hochberg's adjusted p-values (1995): claiming all cells of q <= 0.05, one in twenty of the claims
    is false on average. (...) to (...); NaN stays and counts for none."""
    known = p.isfinite()
    values, order = p[known].double().sort()
    ranks = torch.arange(1, len(values) + 1)
    # A cell is never less sure than a weaker one.
    adjusted = (values * len(values) / ranks).flip(0).cummin(0).values.flip(0).clamp_max(1.0) if len(values) else values
    q = torch.full_like(p, torch.nan)
    found = torch.empty_like(adjusted)
    found[order] = adjusted
    q[known] = found.to(p.dtype)
    return q


def significance(differences: torch.Tensor, *, level: float = 0.95) -> torch.Tensor:
    """How improbable each cell is without an effect, as a signed power of the error rate: (P, ...) to (...).

    log(p) / log(1 - level), positive where a cell brings back more than the control, negative where less. From 1 or -1
    on, the cell differs from the control, all cells considered.
    """
    strength = family_wise_p(differences).log() / math.log(1 - level)
    return strength.clamp_min(0.0) * differences.nanmean(0).sign()


def judge_cells(
    effects: torch.Tensor,
    controls: torch.Tensor,
    total_effects: torch.Tensor,
    *,
    level: float = 0.95,
    smallest: float = SMALLEST_SHARE,
) -> torch.Tensor:
    """1 where a cell brings back more than the control, -1 where less, 0 where neither, NaN where not judged; (L, K).

    The chance that any cell of a trace without effect is given 1 or -1 is at most 1 - ``level``. A cell is given
    neither when its own average effect has the other sign, or is a trifle.

    Args:
        effects: (P, S, D, L, K) of prompts, seeds, noise draws and cells.
        controls: (P, S, D, C).
        total_effects: (P, S, D).
        smallest: a cell below this share of the mean total effect is a trifle: with controls that do next to nothing,
            anything that is not exactly nothing would be significant.
    """
    differs = significance(paired_differences(effects, controls), level=level)
    return claims(differs, effects.nanmean((0, 1, 2)), float(total_effects.nanmean()), smallest=smallest)


def claims(
    differs: torch.Tensor, mean: torch.Tensor, total: float, *, smallest: float = SMALLEST_SHARE
) -> torch.Tensor:
    """The verdicts of :func:`judge_cells`, (L, K), from :func:`significance`, the cells' average effects and the mean
    total effect."""
    large = mean.abs() >= smallest * abs(total)
    claimed = large & (differs.abs() >= 1) & (differs.sign() == mean.sign())
    return torch.where(claimed, mean.sign(), 0.0).masked_fill(differs.isnan(), torch.nan)


def _p_values(differences: torch.Tensor, test: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> torch.Tensor:
    """What a test makes of cells x units and of the flips of their signs; NaN where too few units have a difference."""
    flat = differences.flatten(1).double()
    judged = flat.isfinite().sum(0) >= LEAST_PROMPTS
    p = torch.full((flat.shape[1],), torch.nan)
    if judged.any():
        # Cells, then flips: numpy runs along rows several times as fast as torch.
        cells = _scaled(flat[:, judged].nan_to_num(0.0)).T.numpy()
        p[judged] = torch.from_numpy(test(cells, _sign_flips(len(flat)))).float()
    return p.reshape(differences.shape[1:])


def _step_down(cells: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Family-wise p-values of cells x units."""
    order = np.abs(cells.sum(1)).argsort()
    observed = np.abs(cells[order].sum(1, keepdims=True))
    reached = np.zeros(len(cells))
    for statistics in _flipped(cells[order], flips):
        # Each cell beside all weaker ones. Equal up to rounding is reached.
        reached += (np.maximum.accumulate(statistics, axis=0) >= observed - 1e-9).sum(1)
    # A cell is never more significant than a stronger one.
    ranked = np.maximum.accumulate(reached[::-1])[::-1] / len(flips)
    return np.minimum(ranked / _SPENT, 1.0)[order.argsort()]


def _each_alone(cells: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Cell-wise p-values of cells x units."""
    observed = np.abs(cells.sum(1))
    reached = np.zeros(len(cells))
    for statistics in _flipped(cells, flips):
        sorted_all = np.sort(statistics, axis=None)
        reached += sorted_all.size - np.searchsorted(sorted_all, observed - 1e-9)
    return reached / (len(flips) * len(cells))


def _flipped(cells: np.ndarray, flips: np.ndarray) -> Iterator[np.ndarray]:
    """The cells' statistics under some flips after others, (cells, flips)."""
    for part in np.array_split(flips, -(-len(flips) * len(cells) // _CHUNK)):
        yield np.abs(cells @ part.T)


def _scaled(differences: torch.Tensor) -> torch.Tensor:
    """Differences whose sums are the cells' statistics."""
    size = differences.square().sum(0).sqrt()
    return differences / (size + size.median()).clamp_min(torch.finfo(torch.float64).tiny)


def _sign_flips(units: int) -> np.ndarray:
    """Signs (flips, units), the observed ones first, each standing for its opposite too: all, or a sample of them."""
    if 2 ** (units - 1) <= _FLIPS:
        codes = np.arange(2 ** (units - 1))[:, None]
        return 1.0 - 2.0 * ((codes >> np.arange(units)) & 1)
    drawn = np.random.default_rng(0).integers(2, size=(_FLIPS, units))
    return np.concatenate([np.ones((1, units)), 1.0 - 2.0 * drawn])
