"""The scores of a sweep as they come in, and the trace that they make; what an interrupted sweep measured is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..results.trace import CausalTrace, TraceError
from .cases import Case
from .plan import Job, Plan


class Board:
    """The scores so far."""

    def __init__(self, cases: Sequence[Case], plan: Plan, score_name: str, settings: dict[str, Any]) -> None:
        shape = (len(cases), len(plan.seeds))
        self._plan, self._score = plan, score_name
        self._cases = cases
        self._settings = settings
        self._clean = torch.full(shape, torch.nan)
        self._corrupted = torch.full((*shape, plan.draws), torch.nan)
        self._restored = torch.full((*shape, plan.draws, len(plan.groups), len(plan.columns)), torch.nan)
        self._control = torch.full((*shape, plan.draws, plan.controls), torch.nan)

    def _cell(self, p: int, s: int, job: Job) -> torch.Tensor:
        if job.draw is None:
            return self._clean[p, s]
        if job.group is None:
            return self._corrupted[p, s, job.draw]
        if job.control is not None:
            return self._control[p, s, job.draw, job.control]
        return self._restored[p, s, job.draw, job.group, job.column]

    def has(self, p: int, s: int, job: Job) -> bool:
        return bool(self._cell(p, s, job).isfinite())

    def put(self, p: int, s: int, job: Job, value: float) -> None:
        self._cell(p, s, job).fill_(value)

    def anything(self) -> bool:
        return bool(self._clean.isfinite().any())

    def trace(self) -> CausalTrace:
        return CausalTrace(
            component=self._plan.component,
            sites=self._plan.names(),
            columns=self._plan.columns,
            column_axis="token" if self._plan.component == "text" else "step",
            prompts=tuple(case.prompt for case in self._cases),
            subjects=tuple(case.subject for case in self._cases),
            seeds=self._plan.seeds,
            draws=self._plan.draws,
            clean=self._clean.clone(),
            corrupted=self._corrupted.clone(),
            restored=self._restored.clone(),
            control=self._control.clone(),
            score=self._score,
            settings=self._settings,
            probe=self._plan.probe,
        )

    def resume(self, earlier: CausalTrace, path: Path) -> None:
        """Take over the scores of an interrupted sweep.

        Raises:
            TraceError: it is not the same sweep; the message names what differs.
        """
        mine = self.trace()
        names = ("component", "sites", "columns", "prompts", "subjects", "seeds", "draws", "score", "probe")
        differing = [name for name in names if getattr(mine, name) != getattr(earlier, name)]
        differing += _differing(mine.settings, earlier.settings)
        if earlier.control.shape[-1] != mine.control.shape[-1]:
            differing.append("controls")
        if differing:
            raise TraceError(
                f"The checkpoint {path.name} was made with other {', '.join(differing)}; its scores and new ones would "
                "not belong together. Name another file, or delete this one to start over."
            )
        for target, values in (
            (self._clean, earlier.clean),
            (self._corrupted, earlier.corrupted),
            (self._restored, earlier.restored),
            (self._control, earlier.control),
        ):
            target.copy_(values)


def _differing(mine: Any, earlier: Any, name: str = "") -> list[str]:
    """The names of the settings that differ; of settings within settings, their own."""
    if mine == earlier:
        return []
    kinds = (Mapping, type(None))
    if not (isinstance(mine, kinds) and isinstance(earlier, kinds)):
        return [name.replace("_", " ")]
    one, other = mine or {}, earlier or {}
    return [found for key in {**one, **other} for found in _differing(one.get(key), other.get(key), str(key))]
