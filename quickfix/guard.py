"""What an edit must leave alone: preserved prompts, and the keys that stand for them.

A prompt is preserved *softly*, as a cost beside the edit's own, or *held*, as a constraint: the edit then cannot move
any of its tokens. Preserving a prompt means every position of it, padding too, which Stable Diffusion reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from ..text.prompts import PromptError, PromptTokenizer
from ..text.rows import without_filling
from ..text.subjects import naming_any
from .breadth import BroadGuard, NameKeys
from .concepts.built_in import PRESERVE_SETS, PRESERVED
from .concepts.concept import ConceptEdit
from .concepts.settings import EditSettings
from .encoder.towers import Tower
from .measure.report import Breadth
from .solver.closed_form import SolveError, check_preserve_weight, preserved_gram
from .solver.nullspace import HeldSpan
from .solver.preserved import Kept, PreservedRows, gram_of
from .solver.ridge import normalized, selective

_BUILT_IN = frozenset(PRESERVED).union(*PRESERVE_SETS.values())


@dataclass(frozen=True)
class Guard:
    """What must stay, ready for the solver.

    Attributes:
        kept: :func:`~.solver.closed_form.preserved_gram` (d, d) of the softly preserved keys, each distinct one once,
            or its rows, where they are fewer than d; None where there are none. On the CPU, as ``held`` is: a guard is
            kept for long.
        held: the span of the held keys; None where nothing is held.
        skipped: built-in prompts left out because they name a concept that is edited.
        ridge: :func:`~.solver.ridge.normalized` Gram matrix (d, d) of a list of names, which charges an update by
            ``selectivity``; None charges all directions alike.
        selectivity: 0 to below 1.
        breadth: what the report says of the list of names; None where there is none.
    """

    kept: Kept | None
    held: HeldSpan | None
    skipped: tuple[str, ...]
    ridge: torch.Tensor | None = None
    selectivity: float = 0.0
    breadth: Breadth | None = None

    def system(self, lam: float) -> tuple[float, Kept | None]:
        """lambda and the Gram matrix of what is kept for the solver, at the lambda of the settings."""
        return selective(lam, self.kept, self.ridge, self.selectivity)

    def spectral(self) -> Kept | None:
        """What is kept, for a solve at many lambdas.

        Raises:
            SolveError: the ridge is selective: lambda does not stand apart from it.
        """
        if self.ridge is not None and self.selectivity:
            raise SolveError(
                f"selectivity is {self.selectivity}: edits over many lambdas are not computed with a selective ridge. "
                "Set selectivity to 0."
            )
        return self.kept


@dataclass(frozen=True)
class PromptKeys:
    """The keys of every position of some prompts.

    Padding is among them. Stable Diffusion reads it, and a padding key carries what its prompt says: the concept's own
    padding has attended to the concept, a preserved prompt's has not, so keeping the one leaves the other free.

    Attributes:
        prompts: the prompts.
        keys: each distinct key once, (m, d), on the CPU.
        rows: (parts, positions), the key of each position; a prompt longer than the context has several parts.
        owners: (parts,), the prompt that each part is of.
    """

    prompts: tuple[str, ...]
    keys: torch.Tensor
    rows: torch.Tensor
    owners: torch.Tensor

    @classmethod
    def of(cls, tower: Tower, tokenizer: PromptTokenizer, prompts: Sequence[str], layer: int) -> PromptKeys:
        """The keys of at least one prompt."""
        parts = tokenizer.parts_all(list(prompts))
        ids = without_filling([part.ids for own in parts for part in own])
        owners = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(own) for own in parts]))
        # In a causal tower equal beginnings give equal keys (BOS is the same in all prompts).
        numbers: dict[tuple[int, int], int] = {}

        def number(before: int, token: int) -> int:
            # Nothing is where a row is filled up.
            return numbers.setdefault((before if token >= 0 else 0, token), len(numbers))

        starts = [-1] * len(ids) if tower.causal else [-2 - place for place in range(len(ids))]
        rows = [list(accumulate(row, number, initial=start))[1:] for row, start in zip(ids, starts, strict=True)]
        places = {number: (i, j) for i, row in enumerate(rows) for j, number in enumerate(row)}
        captions, positions = zip(*(places[number] for number in range(len(numbers))), strict=True)
        keys = tower.attention_inputs(ids, layer)[list(captions), list(positions)]
        return cls(tuple(prompts), keys.cpu(), torch.tensor(rows), owners)

    def used(self, prompts: Sequence[str]) -> torch.Tensor:
        """Which keys some of the prompts have, (m,) of bool."""
        wanted = torch.tensor([prompt in set(prompts) for prompt in self.prompts])
        rows = self.rows[wanted[self.owners]]
        return torch.zeros(len(self.keys), dtype=torch.bool).index_fill(0, rows.flatten(), True)


class GuardKeys:
    """The keys of all that some settings preserve, encoded when they are first needed and kept: the guard of any
    concepts is a choice among them. The text encoder that it is asked for must always be the same."""

    def __init__(self, settings: EditSettings) -> None:
        self.settings = settings
        self._keys: dict[tuple[str, ...], PromptKeys] = {}
        self._made: tuple[object, Guard] | None = None
        self._whole: torch.Tensor | None = None
        self._names = NameKeys(settings)

    def guard(
        self,
        tower: Tower,
        tokenizer: PromptTokenizer,
        concepts: Sequence[ConceptEdit],
        progress: Callable[[int, int], None] | None = None,
    ) -> Guard:
        """The guard of some concepts (see :func:`build_guard` for the errors)."""
        settings = self.settings
        soft, skipped = _without_concepts(settings.preserve, concepts, tokenizer)
        hold, held_skipped = _without_concepts(settings.hold, concepts, tokenizer)
        left_out = (*skipped, *held_skipped)
        # A list of names is without what names the concepts, whatever they are.
        asked = left_out, tuple(concept.source for concept in concepts) if settings.breadth else ()
        if self._made is None or self._made[0] != asked:
            broad = self._names.guard(tower, tokenizer, concepts, progress)
            kept = held = None
            if hold:
                every = self._encoded(tower, tokenizer, settings.hold)
                held = HeldSpan.of(every.keys[every.used(hold)].to(tower.device)).to("cpu")
            if soft and settings.preserve_weight:
                kept = self._gram(self._encoded(tower, tokenizer, settings.preserve), soft, held, tower.device)
            self._made = asked, _with_names(Guard(kept, held, left_out), broad)
        return self._made[1]

    def _gram(self, every: PromptKeys, soft: Sequence[str], held: HeldSpan | None, device: torch.device) -> Kept | None:
        """The Gram matrix of some softly preserved prompts; from the keys left out, where they are fewer and the whole
        is known. Its rows, where they are fewer than their dimensions."""

        def gram(chosen: torch.Tensor) -> torch.Tensor | None:
            made = preserved_gram(every.keys[chosen].to(device), self.settings.preserve_weight, held)
            return None if made is None else made.cpu()

        used = every.used(soft)
        if int(used.sum()) < every.keys.shape[1]:
            check_preserve_weight(self.settings.preserve_weight)
            return PreservedRows.of(every.keys[used].to(device), self.settings.preserve_weight, held).to("cpu")
        if held is not None or 2 * int(used.sum()) < len(used):
            return gram(used)
        if self._whole is None:
            self._whole = gram(torch.ones_like(used))
        left_out = gram(~used)
        return self._whole if self._whole is None or left_out is None else self._whole - left_out

    def _encoded(self, tower: Tower, tokenizer: PromptTokenizer, prompts: tuple[str, ...]) -> PromptKeys:
        if prompts not in self._keys:
            self._keys[prompts] = PromptKeys.of(tower, tokenizer, prompts, self.settings.layer)
        return self._keys[prompts]


def build_guard(
    tower: Tower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    progress: Callable[[int, int], None] | None = None,
) -> Guard:
    """The guard that some settings ask for.

    Args:
        progress: called with (captions done, all captions) while a list of names is encoded for the first time.

    Raises:
        PromptError: a preserved prompt, none of the built-in ones, names a concept that is edited; no such list of
            names.
        HeldError: the held prompts leave no room for any edit.
        BreadthError: a list of names cannot guard an edit of this encoder.
    """
    return GuardKeys(settings).guard(tower, tokenizer, concepts, progress)


def _with_names(guard: Guard, broad: BroadGuard | None) -> Guard:
    """A guard, and a list of names beside it."""
    if broad is None:
        return guard
    kept, ridge = broad.told.weight * broad.mean, normalized(broad.mean) if broad.told.selectivity else None
    if guard.held is not None:
        kept, ridge = guard.held.project_gram(kept), None if ridge is None else guard.held.project_gram(ridge)
    return dataclasses.replace(
        guard,
        kept=kept if guard.kept is None else gram_of(guard.kept) + kept,
        ridge=ridge,
        selectivity=broad.told.selectivity,
        breadth=broad.told,
    )


def _without_concepts(
    prompts: Sequence[str], concepts: Sequence[ConceptEdit], tokenizer: PromptTokenizer
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts to preserve, and the built-in ones left out because they name a concept."""
    naming = naming_any(prompts, [concept.source for concept in concepts], tokenizer)
    for prompt in prompts:
        if prompt in naming and prompt not in _BUILT_IN:
            raise PromptError(
                f"The prompt {prompt!r} cannot be preserved: it names a concept that is edited. Take it off the list."
            )
    kept, skipped = (tuple(p for p in prompts if (p in naming) == out) for out in (False, True))
    return kept, skipped
