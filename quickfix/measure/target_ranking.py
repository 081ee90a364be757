"""Targets of a concept, ranked by what is left of the concept and by what they cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ..solver.spectrum import DRIFT_LIMIT, worth


@dataclass(frozen=True)
class Candidate:
    """A target, judged at its own best lambda.

    Attributes:
        target: the word.
        lam: the lambda at the knee.
        removal: see the module's text.
        change: ||delta K|| / ||W0 K||, how far the source's outputs move.
        efficacy, drift: as in :class:`~.solver.spectrum.LambdaCurve`.
        collateral: root mean square of the relative changes of well-known names (``radar.py``).
    """

    target: str
    lam: float
    removal: float
    change: float
    efficacy: float
    drift: float
    collateral: float

    @property
    def worth(self) -> float:
        """removal - drift / 0.1."""
        return worth(self.removal, self.drift)


@dataclass(frozen=True)
class TargetRanking:
    """Candidates, the best first.

    Attributes:
        source: the concept that is to become one of them.
        candidates: at least one.
        unknown: candidates that the text encoder does not know; they are not judged.
    """

    source: str
    candidates: tuple[Candidate, ...]
    unknown: tuple[str, ...] = ()

    @property
    def best(self) -> Candidate:
        return self.candidates[0]

    def text(self) -> str:
        """The best, the candidates as a small table, best first, and the criterion."""
        width = max(12, *(len(candidate.target[:40]) for candidate in self.candidates)) + 2
        lines = [f"Best target of {self.source!r}: {self.best.target!r}"]
        lines.append(f"{'target':{width}}removal efficacy   drift collateral  lambda")
        for one in self.candidates:
            lines.append(
                f"{one.target[:40]:{width}}{one.removal:7.1%} {one.efficacy:8.1%} {one.drift:7.2%} "
                f"{one.collateral:10.2%}  {one.lam:<.4g}"
            )
        if self.unknown:
            lines.append(f"not known to this model: {', '.join(map(repr, self.unknown))}")
        lines.append(
            "The best has the most removal at the least drift (a drift of "
            f"{DRIFT_LIMIT:.0%} weighs as much as all of the concept). Removal is how near the edit brings the "
            "concept's text states to those of plain words; below 0, the target says more than the concept did."
        )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "source": self.source,
            "best": self.best.target,
            "candidates": [{**dataclasses.asdict(one), "worth": one.worth} for one in self.candidates],
            "unknown": list(self.unknown),
        }
