"""How much pictures changed: by how much, and whether in the layout or in the texture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CYCLES = 8
"""Waves of fewer cycles than this over a picture's shorter side are low: layout, color, light; the rest is texture."""


@dataclass(frozen=True)
class Change:
    """How one picture differs from another, or pictures from others.

    Attributes:
        mean: the mean absolute difference of the pixels' values, which lie in [0, 1].
        energy: the sum of the squared differences.
        low_energy: the part of it in low frequencies (:data:`CYCLES`).
    """

    mean: float
    energy: float
    low_energy: float

    @property
    def low(self) -> float:
        """The share of the low frequencies in the squared difference, in [0, 1]; 0 where nothing changed."""
        return self.low_energy / self.energy if self.energy else 0.0

    @property
    def high(self) -> float:
        """The share of all other frequencies; 0 where nothing changed."""
        return 1.0 - self.low if self.energy else 0.0


def change_between(before: np.ndarray, after: np.ndarray) -> Change:
    """How a picture differs from another of the same prompt and seed.

    The low frequencies are those of an orthonormal discrete cosine transform, which no edge of the picture disturbs.

    Args:
        before: (height, width, channels), in [0, 1].
        after: of the same shape.
    """
    difference = after.astype(np.float64) - before.astype(np.float64)
    height, width = difference.shape[:2]
    short = min(height, width)
    low = np.einsum("ih,hwc->iwc", _cosines(height, short), difference)
    low = np.einsum("jw,iwc->ijc", _cosines(width, short), low)
    energy = float((difference**2).sum())
    return Change(float(np.abs(difference).mean()), energy, min(energy, float((low**2).sum())))


def together(changes: Sequence[Change]) -> Change:
    """The change of several pictures of one size, as of one."""
    return Change(
        float(np.mean([one.mean for one in changes])),
        sum(one.energy for one in changes),
        sum(one.low_energy for one in changes),
    )


def summary(names: Sequence[str], changes: Sequence[Sequence[Change]], rows: Sequence[str]) -> str:
    """One sentence for the whole, and a line for each row and column.

    Args:
        names: of the columns; all are compared with the first.
        changes: of each column but the first, for each row.
        rows: what each row shows.
    """
    lines = [_sentence(names, [together(column) for column in changes], len(rows)), ""]
    for number, row in enumerate(rows):
        lines.append(f"row {number + 1}{': ' + row if row else ''}")
        lines += [f"  {name}: {_figures(column[number])}" for name, column in zip(names[1:], changes, strict=True)]
    return "\n".join(lines)


def percent(share: float) -> str:
    """A share for people: "0.4 %", "12 %"."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.0995 else f"{100 * share:.1f} %"


def _figures(change: Change) -> str:
    if not change.energy:
        return "no pixel changed"
    return (
        f"{percent(change.mean)} changed; {percent(change.low)} of it layout and color, {percent(change.high)} texture"
    )


def _sentence(names: Sequence[str], wholes: Sequence[Change], rows: int) -> str:
    parts = [
        f'by {percent(whole.mean)} in "{name}" ({percent(whole.low)} of it layout and color, '
        f"{percent(whole.high)} texture)"
        if whole.energy
        else f'not at all in "{name}"'
        for name, whole in zip(names[1:], wholes, strict=True)
    ]
    count = "the picture" if rows == 1 else f"the {rows} pictures"
    return f'Beside "{names[0]}", {count} changed {", ".join(parts)}.'


def _cosines(side: int, short: int) -> np.ndarray:
    """The low rows (count, side) of the orthonormal cosine transform."""
    count = min(side, max(1, round(2 * CYCLES * side / short)))
    wave, place = np.arange(count)[:, None], np.arange(side)[None] + 0.5
    basis = np.sqrt(2 / side) * np.cos(np.pi / side * wave * place)
    basis[0] /= np.sqrt(2)
    return basis
