"""What a trace lets one claim of each cell, and which cells a drawing hatches."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .sign_flips import (
    LEAST_PROMPTS,
    SMALLEST_SHARE,
    cell_wise_p,
    claims,
    paired_differences,
    q_values,
    significance,
)
from .statistics import first_shares, mean_interval, prompt_means
from .trace import CausalTrace

# Fewer control runs have no range worth the name.
LEAST_CONTROLS = 4


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is claimed of the cells of a trace; all (L, K).

    Attributes:
        low, high: interval of the average indirect effect (see :func:`~.statistics.mean_interval`); NaN with one
            prompt.
        significance: from 1 or -1 on, a cell differs from the control (see :func:`~.sign_flips.significance`); NaN
            where not judged.
        p: of each cell for itself (see :func:`~.sign_flips.cell_wise_p`); NaN where not judged.
        q: the same, adjusted so that of all cells of a q of at most 5 % one in twenty is a false one (see
            :func:`~.sign_flips.q_values`). A verdict is stricter: there no cell of twenty traces is.
        verdict: 1 where a cell brings back more than the control, -1 where less, 0 where neither, NaN where not judged
            (see :func:`~.sign_flips.judge_cells`).
        hatched: what a drawing marks as no finding: judged cells with verdict 0. Where nothing can be judged, cells
            within the range of the control runs, which describes these runs and claims nothing.
        first: share of bootstrap resamples of prompts and their seeds in which the cell has the largest average
            indirect effect (see :func:`~.statistics.first_shares`); NaN with one prompt.
        prompts: how many prompts have an effect and a control.
        controls: how many control runs there are.
        runs: how many runs the cell has that was measured most often.
    """

    low: torch.Tensor
    high: torch.Tensor
    significance: torch.Tensor
    p: torch.Tensor
    q: torch.Tensor
    verdict: torch.Tensor
    hatched: torch.Tensor
    first: torch.Tensor
    prompts: int
    controls: int
    runs: int

    @property
    def judged(self) -> bool:
        """Whether any cell could be judged."""
        return bool(self.verdict.isfinite().any())

    @property
    def beats_control(self) -> torch.Tensor:
        """Cells that bring back more than the control, all cells considered; (L, K) bool."""
        return self.verdict == 1

    def text(self) -> str:
        """What hatching means, in words."""
        if self.judged:
            return "Hatched: no different from the control."
        if self.controls < LEAST_CONTROLS:
            return "Too few control runs to compare with: nothing is hatched."
        prompts = f"{self.prompts} prompt{'s' * (self.prompts != 1)}"
        return f"{prompts}: no claim ({LEAST_PROMPTS} are needed). Hatched: within the range of the control runs."


@dataclass(frozen=True, eq=False)
class PromptRows:
    """What a judgement reads of a trace; all but ``by_seed``, ``effects`` and ``differences`` are of the whole trace.

    Attributes:
        by_seed: each prompt's and seed's mean effect over its draws of noise, (P, S, L, K).
        effects: each prompt's mean effect, (P, L, K).
        differences: each prompt's mean of effect minus control (see :func:`~.sign_flips.paired_differences`).
        average: average indirect effect over all runs, (L, K).
        total: mean total effect.
        lowest, highest: of the control effects; NaN without any.
        controls: how many control runs there are.
        runs: how many runs the cell has that was measured most often.
    """

    by_seed: torch.Tensor
    effects: torch.Tensor
    differences: torch.Tensor
    average: torch.Tensor
    total: float
    lowest: float
    highest: float
    controls: int
    runs: int

    @classmethod
    def of_trace(cls, trace: CausalTrace) -> PromptRows:
        """The rows of a trace."""
        effects, controls = trace.indirect_effects(), trace.control_effects()
        known = controls[controls.isfinite()]
        return cls(
            effects.nanmean(2),
            prompt_means(effects),
            paired_differences(effects, controls),
            trace.average_indirect_effect(),
            float(trace.total_effects().nanmean()),
            float(known.min()) if len(known) else torch.nan,
            float(known.max()) if len(known) else torch.nan,
            len(known),
            int(effects.isfinite().sum((0, 1, 2)).max()),
        )


def judge(trace: CausalTrace, *, level: float = 0.95, smallest: float = SMALLEST_SHARE) -> Judgement:
    """Judge every cell of a trace.

    Args:
        level: of the intervals, and 1 minus the chance that any cell without effect is claimed to have one.
        smallest: share of the mean total effect below which nothing is claimed.
    """
    return judge_rows(PromptRows.of_trace(trace), level=level, smallest=smallest)


def judge_rows(rows: PromptRows, *, level: float = 0.95, smallest: float = SMALLEST_SHARE) -> Judgement:
    """The judgement of the trace that the rows are of (see :func:`judge`)."""
    low, high = mean_interval(rows.effects, level=level)
    differs = significance(rows.differences, level=level)
    verdict = claims(differs, rows.average, rows.total, smallest=smallest)
    if verdict.isfinite().any():
        hatched = verdict == 0
    elif rows.controls >= LEAST_CONTROLS:
        hatched = (rows.lowest <= rows.average) & (rows.average <= rows.highest)
    else:
        hatched = torch.zeros_like(verdict, dtype=torch.bool)
    return Judgement(
        low,
        high,
        differs,
        p := cell_wise_p(rows.differences),
        q_values(p),
        verdict,
        hatched,
        first_shares(rows.by_seed[:, :, None]),
        int(rows.differences.isfinite().any((1, 2)).sum()),
        rows.controls,
        rows.runs,
    )
