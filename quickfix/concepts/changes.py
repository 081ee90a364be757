"""Changes of an edit's concepts, as users write them: what to drop, to add, and to weigh otherwise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar, cast

from ...text.prompts import PromptTokenizer
from .concept import ConceptEdit
from .lists import ConceptListError, combine, entered_name, entries, parse_concepts


class LedgerError(ValueError):
    """A change of an edit's concepts that cannot be made."""


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
        known = set(ledger.concepts)
        for concept in combine(ledger.concepts, self.add).concepts:
            if concept not in known:
                ledger = ledger.add(concept)
        return ledger

    def made_on(self, concepts: Sequence[ConceptEdit], tokenizer: PromptTokenizer) -> tuple[ConceptEdit, ...]:
        """A list of concepts with these changes, in time linear in both.

        Raises:
            LedgerError, PromptError: as :meth:`apply`.
        """
        kept: list[ConceptEdit | None] = list(concepts)
        places: dict[tuple[int, ...], list[int]] = {}
        for place, words in enumerate(tokenizer.word_ids_all([concept.source for concept in concepts])):
            places.setdefault(words, []).append(place)
        for source, words in zip(self.drop, tokenizer.word_ids_all(self.drop), strict=True):
            kept[_last(places, words, source, kept)] = None
            places[words].pop()
        names = [source for source, _ in self.reweight]
        for (source, weight), words in zip(self.reweight, tokenizer.word_ids_all(names), strict=True):
            place = _last(places, words, source, kept)
            kept[place] = dataclasses.replace(cast(ConceptEdit, kept[place]), weight=weight)
        rest = [concept for concept in kept if concept is not None]
        known = set(rest)
        added = [concept for concept in combine(rest, self.add).concepts if concept not in known]
        return (*rest, *added)


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


def _last(
    places: dict[tuple[int, ...], list[int]],
    words: tuple[int, ...],
    source: str,
    kept: Sequence[ConceptEdit | None],
) -> int:
    """Where the last concept of a source stands."""
    if not places.get(words):
        raise no_concept(source, [concept.source for concept in kept if concept is not None])
    return places[words][-1]


def no_concept(source: str, known: Sequence[str]) -> LedgerError:
    """The error that tells what an edit holds in place of a concept."""
    named = ", ".join(map(repr, known[:8])) or "nothing"
    return LedgerError(f"The edit holds no concept {source!r}; it holds {named}{', ...' if len(known) > 8 else ''}.")


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
