"""Which cells of a trace bring back more than the control, or less: one test over all cells, by flipped signs.

What is independent of another is a prompt: its seeds and noise draws share its words. Each prompt and cell give one
*difference*: the cell's effect minus that of a control, averaged over the prompt's runs, with one control for each run.
Where a cell does nothing that the control does not do, the difference is as often on this side of zero as on that, so
its sign may be flipped; flipping whole prompts keeps what the cells share. The test is that of Westfall and Young
(1993): a cell's statistic is compared with the largest one over all cells under each flip, step by step.

What is assumed: under the null a difference is distributed symmetrically about zero. That is so where cell and control
have one distribution, however skewed (hence one control for each run: the mean of several is less skewed than the
cell), and where both are symmetric, however much cells differ in spread. Cells that are skewed *and* differ in spread
are outside of it; docs/statistics.md says what they do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

# With fewer, no arrangement of signs is improbable enough: 2 ** -5 is the largest power of two below MORE_SHARE * 5 %.
LEAST_PROMPTS = 5
# What of the error rate goes to claims of "more than the control"; the rest goes to "less".
MORE_SHARE = 0.8
SMALLEST_SHARE = 0.02
# Below twelve prompts these are all flips that there are.
_FLIPS = 4096
_STABILIZER = 0.5
_CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class ControlTest:
    """Family-wise p-values of each cell, (L, K); NaN where fewer than ``LEAST_PROMPTS`` prompts have a difference.

    Attributes:
        more: of the claim that the cell brings back more than the control.
        less: of the claim that it brings back less.
    """

    more: torch.Tensor
    less: torch.Tensor

    def significance(self, *, level: float = 0.95) -> torch.Tensor:
        """How improbable the likelier claim's opposite is, as a signed power of its error rate, (L, K).

        log(p) / log(error rate), positive for "more" and negative for "less": beyond 1 or -1 the claim holds.
        """
        more, less = (
            p.log() / math.log(share * (1 - level))
            for p, share in ((self.more, MORE_SHARE), (self.less, 1 - MORE_SHARE))
        )
        return torch.where(more >= less, more, -less)


def paired_differences(effects: torch.Tensor, controls: torch.Tensor) -> torch.Tensor:
    """Each prompt's mean of effect minus control over its runs, one control for each run; (P, L, K).

    All runs of a prompt are given the control of one number, the next prompt's that of the next, so that all take part.
    A run whose effect or controls were not measured is left out; NaN where none is left.

    Args:
        effects: (P, S, D, L, K) of prompts, seeds, noise draws and cells.
        controls: (P, S, D, C).
    """
    number = controls.shape[-1]
    if not number:
        return effects.new_full((len(effects), *effects.shape[3:]), torch.nan)
    order = (torch.arange(len(controls))[:, None] + torch.arange(number)) % number
    turned = controls.gather(-1, order[:, None, None].expand_as(controls))
    first = turned.isfinite().float().argmax(-1, keepdim=True)
    control = turned.gather(-1, first)[..., 0]
    return (effects - control[..., None, None]).nanmean((1, 2))


def control_test(effects: torch.Tensor, controls: torch.Tensor) -> ControlTest:
    """Test all cells against the control at once.

    The statistic of a cell is the sum of its differences over (their root sum of squares + half the median of those
    over cells): the divisor does not change with the signs, makes cells of unequal spread comparable, and keeps a
    cell that hardly varies in a handful of prompts from passing for a large one. All flips are tried for up to twelve
    prompts, else 4,096 drawn ones, the same for every trace: the result depends on the scores alone.

    Args:
        effects: (P, S, D, L, K) of prompts, seeds, noise draws and cells.
        controls: (P, S, D, C).
    """
    differences = paired_differences(effects, controls)
    shape = differences.shape[1:]
    flat = differences.flatten(1).double()
    judged = flat.isfinite().sum(0) >= LEAST_PROMPTS
    more, less = (torch.full((flat.shape[1],), torch.nan) for _ in range(2))
    if judged.any():
        more[judged], less[judged] = _family_wise(flat[:, judged].nan_to_num(0.0))
    return ControlTest(more.reshape(shape), less.reshape(shape))


def judge_cells(
    effects: torch.Tensor,
    controls: torch.Tensor,
    total_effects: torch.Tensor,
    *,
    level: float = 0.95,
    smallest: float = SMALLEST_SHARE,
) -> torch.Tensor:
    """1 where a cell brings back more than the control, -1 where less, 0 where neither, NaN where not judged; (L, K).

    The chance that any cell of a trace without effect is given 1 or -1 is at most 1 - ``level``; four fifths of it go
    to 1. A cell is given neither when its own average effect has the other sign, or is a trifle.

    Args:
        effects: (P, S, D, L, K) of prompts, seeds, noise draws and cells.
        controls: (P, S, D, C).
        total_effects: (P, S, D).
        smallest: a cell below this share of the mean total effect is a trifle: with controls that do next to nothing,
            anything that is not exactly nothing would be significant.
    """
    significance = control_test(effects, controls).significance(level=level)
    mean = effects.nanmean((0, 1, 2))
    large = mean.abs() >= smallest * total_effects.nanmean().abs()
    claimed = large & (significance.abs() >= 1) & (significance.sign() == mean.sign())
    return torch.where(claimed, significance.sign(), 0.0).masked_fill(significance.isnan(), torch.nan)


def _family_wise(differences: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Step-down p-values of "more" and of "less" for units x cells; 0 stands for what was not measured."""
    size = differences.square().sum(0).sqrt()
    scaled = differences / (size + _STABILIZER * size.median()).clamp_min(torch.finfo(torch.float64).tiny)
    observed = scaled.sum(0)
    orders = (observed.argsort(), (-observed).argsort())
    reached = [torch.zeros_like(observed) for _ in orders]
    flips = _sign_flips(len(differences))
    for part in flips.split(max(1, _CHUNK // len(observed))):
        sums = part @ scaled
        for sign, order, count in zip((1, -1), orders, reached, strict=True):
            # Equal up to rounding is reached.
            largest = (sign * sums[:, order]).cummax(1).values
            count[order] += (largest >= sign * observed[order] - 1e-9).sum(0)
    return tuple(  # type: ignore[return-value]
        _never_below_a_stronger(count / len(flips), order) for count, order in zip(reached, orders, strict=True)
    )


def _never_below_a_stronger(p: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A cell is never more significant than one with a larger statistic; ``order`` goes from small to large."""
    result = torch.empty_like(p)
    result[order] = p[order].flip(0).cummax(0).values.flip(0)
    return result.float()


def _sign_flips(units: int) -> torch.Tensor:
    """Signs (flips, units), the observed ones first: every arrangement, or a sample of them."""
    if 2**units <= _FLIPS:
        codes = torch.arange(2**units)[:, None]
        return 1.0 - 2.0 * ((codes >> torch.arange(units)) & 1).double()
    drawn = torch.randint(2, (_FLIPS, units), generator=torch.Generator().manual_seed(0)).double()
    return torch.cat([torch.ones(1, units, dtype=torch.float64), 1 - 2 * drawn])
