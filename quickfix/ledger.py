"""The ledger of an edit: concepts that can be added, dropped and re-weighted, each for the cost of one.

    ledger = Ledger.of_edit(tower, tokenizer, edit)
    weight = base + ledger.drop("van gogh").delta()     # milliseconds
    edit = ledger.drop("van gogh").solve()              # with the report

An edit needs no more of its concepts than three sums (``stream.py``), and sums can be taken apart again, if nothing was
rounded away. The ledger therefore adds in fixed point: each concept's share of a sum, in fp64, is cut into two integers
of 2^-20 and 2^-60, and integers add up exactly, in any order. So the state depends on the concepts alone, not on what
was done before: dropping what was added brings every bit back, and an edited ledger equals a new one.

Memory, the CPU's: the integers, 28 MB for CLIP-L, whatever the number of concepts, and the keys of what is preserved,
11 MB.
Nothing is kept for a single concept; to take it out, its share is computed once more, from the tower.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..text.prompts import PromptError, PromptTokenizer
from .concepts.changes import LedgerError, no_concept
from .concepts.concept import ConceptEdit
from .concepts.conflicts import refuse_conflicts
from .concepts.settings import GUARDED, EditSettings
from .edit import edit_of_pairs, everyday_probe, lambda_curve, require_fit
from .encoder.towers import Tower
from .guard import GuardKeys
from .measure.stopwatch import Stopwatch
from .measure.weight_edit import WeightEdit
from .solver.closed_form import Statistics
from .stream import GatheredPairs, KeySums, edited_layer, encode_pairs, tokenize_pairs

_COARSE, _FINE = 2.0**20, 2.0**60
# A coarse integer has 63 bits; one concept may fill 43 of them, so that a million concepts fit.
_LARGEST = 2.0**43


@dataclass(frozen=True)
class _Exact:
    """A sum of fp64 tensors in fixed point: ``coarse`` / 2^20 + ``fine`` / 2^60, in int64."""

    coarse: torch.Tensor
    fine: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> _Exact:
        if not float(x.abs().amax()) * _COARSE < _LARGEST:
            raise LedgerError("A concept's keys or its weight are too large for a ledger; is the text encoder damaged?")
        coarse = (x * _COARSE).round()
        return cls(coarse.long(), ((x - coarse / _COARSE) * _FINE).round().long())

    def plus(self, other: _Exact, sign: int) -> _Exact:
        return _Exact(self.coarse + sign * other.coarse, self.fine + sign * other.fine)

    def value(self) -> torch.Tensor:
        return self.coarse.double() / _COARSE + self.fine.double() / _FINE


@dataclass(frozen=True, eq=False)
class Ledger:
    """The concepts of an edit, and sums from which it can be solved again. Changes make new ledgers.

    Attributes:
        tower, tokenizer: of the text encoder that is edited; its weights must stay as they are.
        settings: of the edit.
        concepts: what is edited, in the order in which it was added.
    """

    tower: Tower
    tokenizer: PromptTokenizer
    settings: EditSettings = GUARDED
    concepts: tuple[ConceptEdit, ...] = ()
    _sums: tuple[_Exact, ...] = dataclasses.field(default=(), repr=False)
    _pairs: int = dataclasses.field(default=0, repr=False)
    _guard: GuardKeys | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self._guard is None:
            object.__setattr__(self, "_guard", GuardKeys(self.settings))

    @classmethod
    def of(
        cls,
        tower: Tower,
        tokenizer: PromptTokenizer,
        concepts: Iterable[ConceptEdit],
        settings: EditSettings = GUARDED,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Ledger:
        """The ledger of some concepts, such as ``edit.concepts`` with ``edit.settings``.

        Args:
            progress: called with (concepts done, all concepts); an exception it raises ends the work.

        Raises:
            PromptError, SubjectError, TowerError: as :func:`compute_edit`.
        """
        concepts = tuple(concepts)
        tower.require_layer(settings.layer)
        refuse_conflicts(concepts, tokenizer)
        ledger = cls(tower, tokenizer, settings)
        for number, concept in enumerate(concepts, 1):
            ledger = ledger._changed((*ledger.concepts, concept), concept, 1)
            if progress is not None:
                progress(number, len(concepts))
        return ledger

    @classmethod
    def of_edit(
        cls,
        tower: Tower,
        tokenizer: PromptTokenizer,
        edit: WeightEdit,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> Ledger:
        """The ledger of an edit, from its concepts and settings; the edit may come from a file.

        Args:
            tower, tokenizer: of the model that it is to be solved on, the edit's own or another of its kind.

        Raises:
            TowerError: the edit was made for another kind of text encoder.
            PromptError, SubjectError: as :func:`compute_edit`.
        """
        require_fit(tower, edit)
        return cls.of(tower, tokenizer, edit.concepts, edit.settings, progress=progress)

    def add(self, concept: ConceptEdit) -> Ledger:
        """With one concept more.

        Raises:
            PromptError, SubjectError: it contradicts the others, or is cut off at the context length.
        """
        refuse_conflicts((*self.concepts, concept), self.tokenizer)
        return self._changed((*self.concepts, concept), concept, 1)

    def drop(self, source: str) -> Ledger:
        """Without a concept, by its source; of several alike, without the last.

        Raises:
            LedgerError: there is none of this source.
        """
        place = self._place(source)
        rest = self.concepts[:place] + self.concepts[place + 1 :]
        return self._changed(rest, self.concepts[place], -1)

    def reweight(self, source: str, weight: float) -> Ledger:
        """With another weight for a concept, by its source.

        Raises:
            LedgerError: there is none of this source.
            PromptError: the weight is not a finite number above 0; to weigh nothing, drop it.
        """
        place = self._place(source)
        old, new = self.concepts[place], dataclasses.replace(self.concepts[place], weight=weight)
        concepts = (*self.concepts[:place], new, *self.concepts[place + 1 :])
        return self._changed(concepts, old, -1)._changed(concepts, new, 1)

    @torch.no_grad()
    def delta(self, settings: EditSettings | None = None) -> torch.Tensor:
        """What the edit adds to the weight, (d_out, d_in) in fp32 on the CPU, without a report: the quick part of
        :meth:`solve`.

        One product, one Cholesky factor and two triangular solves in fp64; where lambda is None, finding it costs more.
        For the arguments and errors, see there.
        """
        settings, guard = self._served(settings)
        weight, bias = edited_layer(self.tower, settings)
        asked = self.tower, self.tokenizer, self.concepts
        sums, made = self.sums(), guard.guard(*asked)
        lam = settings.lam
        if lam is None:
            probe = everyday_probe(*asked, settings.layer)
            lam = lambda_curve(sums.statistics(weight, bias), made, probe).best
        lam, kept = made.system(lam)
        # No update depends on the residuals' energy.
        statistics = Statistics(sums.gram, sums.cross(weight, bias), math.nan, sums.pairs)
        return statistics.delta(lam=lam, kept=kept, held=made.held).float().cpu()

    @torch.no_grad()
    def solve(
        self, settings: EditSettings | None = None, *, progress: Callable[[int, int], None] | None = None
    ) -> WeightEdit:
        """The edit of the concepts, as :func:`compute_edit` would make it: of least rank, with its report.

        Args:
            settings: other settings than the ledger's own; the layer, the positions and the bias must be the same.
            progress: called with (captions done, all captions) where a list of names is encoded; an exception it
                raises ends the work.

        Raises:
            LedgerError: other settings that the sums do not serve.
            PromptError: no concepts, or a preserved prompt names one.
            HeldError: the held prompts leave the concepts no room.
        """
        settings, guard = self._served(settings)
        watch = Stopwatch()
        with watch.stage("keys"):
            made = guard.guard(self.tower, self.tokenizer, self.concepts, progress)
        with watch.stage("solve"):
            weight, bias = edited_layer(self.tower, settings)
            statistics = self.sums().statistics(weight, bias)
        pairs = GatheredPairs(None, statistics, weight, bias)
        return edit_of_pairs(self.tower, self.tokenizer, self.concepts, settings, pairs, made, watch)

    def _served(self, settings: EditSettings | None) -> tuple[EditSettings, GuardKeys]:
        """Settings that the sums serve, and their guard's keys; the ledger's own are kept from solve to solve."""
        settings = settings or self.settings
        if _key_settings(settings) != _key_settings(self.settings):
            raise LedgerError("The ledger's sums are of another layer or other positions; make a new ledger.")
        if not self.concepts:
            raise PromptError("The ledger holds no concepts; add at least one.")
        assert self._guard is not None
        own = _kept_settings(settings) == _kept_settings(self.settings)
        return settings, self._guard if own else GuardKeys(settings)

    def sums(self) -> KeySums:
        """The sums over all pairs of all concepts."""
        if not self._sums:
            return KeySums.empty(self.tower.width, self.tower.device)
        gram, moment, change, keys, changes, weight = (exact.value().to(self.tower.device) for exact in self._sums)
        return KeySums(gram, moment, change, keys, changes, float(weight), self._pairs)

    def _place(self, source: str) -> int:
        words = self.tokenizer.word_ids(source)
        every = self.tokenizer.word_ids_all([concept.source for concept in self.concepts])
        places = [place for place, known in enumerate(every) if known == words]
        if not places:
            raise no_concept(source, [concept.source for concept in self.concepts])
        return places[-1]

    @torch.no_grad()
    def _changed(self, concepts: tuple[ConceptEdit, ...], concept: ConceptEdit, sign: int) -> Ledger:
        pairs = tokenize_pairs(self.tokenizer, [concept], self.settings.positions)
        share = encode_pairs(self.tower, pairs, self.settings, [concept.weight]).sums()
        tensors = (
            share.gram,
            share.moment,
            share.change,
            share.keys,
            share.changes,
            share.gram.new_tensor(share.weight),
        )
        exact = [_Exact.of(tensor.cpu()) for tensor in tensors]
        before = self._sums or tuple(_Exact(x.coarse * 0, x.fine * 0) for x in exact)
        sums = tuple(old.plus(new, sign) for old, new in zip(before, exact, strict=True))
        return dataclasses.replace(self, concepts=concepts, _sums=sums, _pairs=self._pairs + sign * share.pairs)


def _key_settings(settings: EditSettings) -> tuple[Any, ...]:
    return settings.layer, settings.positions, settings.published_bias


def _kept_settings(settings: EditSettings) -> tuple[Any, ...]:
    broad = settings.breadth, settings.breadth_weight, settings.selectivity
    return settings.preserve, settings.hold, settings.preserve_weight, *broad
