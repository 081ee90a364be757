"""What the shards of a sweep say together: one joined trace, or its statistics from one prompt after the other."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from ..tracing.results.judgement import Judgement, PromptRows, judge_rows
from ..tracing.results.sign_flips import paired_differences
from ..tracing.results.statistics import prompt_means
from ..tracing.results.trace import FLOOR, CausalTrace
from .plan import Shard, SweepError
from .store import MADE, SweepFolder


def joined(folder: SweepFolder, *, partial: bool = False) -> CausalTrace:
    """One trace of all shards: bit by bit what one run over all prompts and seeds measures.

    Args:
        partial: take the prompts whose seeds are all there, and leave out the others.

    Raises:
        SweepError: shards are missing, or none is there.
        TraceError: shards do not fit together.
    """
    return CausalTrace.joined(folder.traces(whole_shards(folder, partial)))


def whole_shards(folder: SweepFolder, partial: bool) -> list[Shard]:
    """All shards, prompt by prompt; with ``partial`` those of prompts that have all of theirs.

    Raises:
        SweepError: shards are missing, or none is there.
    """
    return list(itertools.chain(*_whole_prompts(folder, partial).values()))


@dataclass(frozen=True, eq=False)
class SweepScores:
    """The statistics of a sweep, as those of its joined trace, without all runs in memory at once.

    Attributes:
        trace: one run a prompt, the mean over its seeds and draws: for what draws a trace.
        judgement: of all runs.
        average: average indirect effect over all runs, (L, K).
        recovery: as :meth:`CausalTrace.recovery`, (L, K).
        total: mean total effect.
        made_with: how many shards were computed on what.
    """

    trace: CausalTrace
    judgement: Judgement
    average: torch.Tensor
    recovery: torch.Tensor
    total: float
    made_with: dict[str, int]


def sweep_scores(folder: SweepFolder, *, partial: bool = False, level: float = 0.95) -> SweepScores:
    """The statistics of a sweep, of which a prompt's mean scores are kept: twelve bytes for each prompt and cell, and
    four for each seed of it.

    Raises:
        SweepError: as :func:`joined`.
        TraceError: as :func:`joined`.
    """
    groups = _whole_prompts(folder, partial)
    sums = _Sums()
    for number, shards in enumerate(groups.values()):
        sums.add(number, CausalTrace.joined(folder.traces(shards)))
    made = Counter(
        _said(folder.read(shard).settings[MADE].get("made with")) for group in groups.values() for shard in group
    )
    return sums.scores(level, dict(made))


def _whole_prompts(folder: SweepFolder, partial: bool) -> dict[str, list[Shard]]:
    """The shards of each prompt whose shards are all finished, in the plan's order."""
    finished, missing, damaged = folder.sorted_out()
    if missing and not partial:
        bad = f", {len(damaged)} of them with a damaged file," if damaged else ""
        raise SweepError(
            f"{len(missing)} of {len(missing) + len(finished)} shards{bad} are not finished. Run the sweep to its end, "
            "or ask for a partial result."
        )
    lacking = {shard.prompt for shard in missing}
    groups: dict[str, list[Shard]] = {}
    for shard in finished:
        if shard.prompt not in lacking:
            groups.setdefault(shard.prompt, []).append(shard)
    if not groups:
        raise SweepError(f"No prompt of the sweep in {folder.path} has all its seeds yet; run the sweep on.")
    return groups


def _said(made: Any) -> str:
    known = made if isinstance(made, dict) else {}
    return ", ".join(f"{name} {value}" for name, value in sorted(known.items())) or "not known"


class _Sums:
    """Sums over prompts that come one by one; sums are in fp64."""

    def __init__(self) -> None:
        self._means: list[CausalTrace] = []
        self._by_seed: list[torch.Tensor] = []
        self._effects: list[torch.Tensor] = []
        self._differences: list[torch.Tensor] = []
        self._controls: list[torch.Tensor] = []
        self._sum, self._count = torch.zeros(()), torch.zeros(())
        self._kept_sum, self._kept_total = torch.zeros(()), torch.zeros(())
        self._total, self._totals = 0.0, 0

    def add(self, number: int, trace: CausalTrace) -> None:
        """Take in the trace of one prompt, the ``number``-th of all."""
        effects, controls, total = trace.indirect_effects(), trace.control_effects(), trace.total_effects()
        self._by_seed.append(effects.nanmean(2))
        self._effects.append(prompt_means(effects))
        self._differences.append(paired_differences(effects, controls, first=number))
        known = controls[controls.isfinite()]
        self._controls.append(torch.tensor([known.min(), known.max(), len(known)]) if len(known) else torch.zeros(0))
        self._sum = self._sum + effects.double().nansum((0, 1, 2))
        self._count = self._count + effects.isfinite().sum((0, 1, 2))
        kept = (total.abs() > FLOOR)[..., None, None] & effects.isfinite()
        self._kept_sum = self._kept_sum + torch.where(kept, effects.double(), 0.0).sum((0, 1, 2))
        self._kept_total = self._kept_total + torch.where(kept, total[..., None, None].double(), 0.0).sum((0, 1, 2))
        self._total += float(total.double().nansum())
        self._totals += int(total.isfinite().sum())
        self._means.append(_one_run(trace))

    def scores(self, level: float, made_with: dict[str, int]) -> SweepScores:
        """What was taken in, judged."""
        average, total = (self._sum / self._count).float(), self._total / max(1, self._totals)
        known = [found for found in self._controls if len(found)]
        rows = PromptRows(
            torch.cat(self._by_seed),
            torch.cat(self._effects),
            torch.cat(self._differences),
            average,
            total,
            min((float(found[0]) for found in known), default=torch.nan),
            max((float(found[1]) for found in known), default=torch.nan),
            sum(int(found[2]) for found in known),
            int(self._count.max()),
        )
        recovery = (self._kept_sum / self._kept_total).float()
        judgement, trace = judge_rows(rows, level=level), CausalTrace.joined(self._means)
        return SweepScores(trace, judgement, average, recovery, total, made_with)


def _one_run(trace: CausalTrace) -> CausalTrace:
    """The mean over seeds and draws, as a trace of one seed and draw."""
    seeds = trace.clean.shape[1] * trace.draws
    mean: dict[str, Any] = {
        "clean": trace.clean.nanmean(1, keepdim=True),
        "corrupted": trace.corrupted.nanmean((1, 2), keepdim=True),
        "restored": trace.restored.nanmean((1, 2), keepdim=True),
        "control": trace.control.nanmean((1, 2), keepdim=True),
    }
    settings = {**trace.settings, "mean of runs": seeds}
    return dataclasses.replace(trace, **mean, seeds=trace.seeds[:1], draws=1, settings=settings)
