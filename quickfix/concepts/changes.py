"""Changes of an edit's concepts, as users write them: what to drop, to add, and to weigh otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from .concept import ConceptEdit
from .lists import ConceptListError, combine, entered_name, entries, parse_concepts


class Changeable(Protocol):
    """What changes are made on: a :class:`~.quickfix.ledger.Ledger`."""

    @property
    def concepts(self) -> tuple[ConceptEdit, ...]: ...

    def add(self, concept: ConceptEdit) -> Self: ...

    def drop(self, source: str) -> Self: ...

    def reweight(self, source: str, weight: float) -> Self: ...


L = TypeVar("L", bound=Changeable)


@dataclass(frozen=True)
class Changes:
    """Changes of an edit, made in this order.

    Attributes:
        drop: sources of concepts to take out.
        reweight: (source, weight) of concepts that stay.
        add: new concepts; one that is there already counts once.
    """

    drop: tuple[str, ...] = ()
    reweight: tuple[tuple[str, float], ...] = ()
    add: tuple[ConceptEdit, ...] = ()

    def apply(self, ledger: L) -> L:
        """A ledger with these changes.

        Raises:
            LedgerError: a name to drop or to reweight that it does not hold.
            PromptError: a concept to add that contradicts one that stays.
        """
        for source in self.drop:
            ledger = ledger.drop(source)
        for source, weight in self.reweight:
            ledger = ledger.reweight(source, weight)
        for concept in combine(ledger.concepts, self.add).concepts:
            if concept not in ledger.concepts:
                ledger = ledger.add(concept)
        return ledger


def parse_changes(drop: str = "", reweight: str = "", add: str = "") -> Changes:
    """Changes from texts, each with one entry a line; lines that begin with # are comments.

    Args:
        drop: names.
        reweight: lines such as ``van gogh: 0.5``.
        add: concepts as :func:`parse_concepts` reads them.

    Raises:
        ConceptListError: a line that cannot be read, with its number.
    """
    weights = tuple(_weight(number, line.strip()) for number, line in entries(reweight))
    return Changes(
        tuple(entered_name(line, number) for number, line in entries(drop)), weights, parse_concepts(add).concepts
    )


def _weight(number: int, line: str) -> tuple[str, float]:
    source, colon, text = line.rpartition(":")
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not colon or not source.strip() or not (math.isfinite(weight) and weight > 0):
        raise ConceptListError(
            f"line {number}: cannot read {line[:80]!r} as a weight; expected a name, a colon and a number above 0, "
            "such as van gogh: 0.5 (to take a concept out, drop it)."
        )
    return entered_name(source, number), weight
