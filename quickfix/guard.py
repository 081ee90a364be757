"""What an edit must leave alone: preserved prompts, and the keys that stand for them.

A prompt is preserved *softly*, as a cost beside the edit's own, or *held*, as a constraint: the edit then cannot move
any of its tokens. Preserving a prompt means every position of it, padding too, which Stable Diffusion reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..prompts import PromptError, PromptTokenizer, naming_any
from .everyday import PRESERVE_SETS, PRESERVED
from .nullspace import HeldSpan
from .request import ConceptEdit, EditSettings
from .tower import TextTower

_BUILT_IN = frozenset(PRESERVED).union(*PRESERVE_SETS.values())
# How a list of prompts writes the empty one, since an empty line means nothing.
EMPTY_LINE = '""'


@dataclass(frozen=True)
class Guard:
    """What must stay, ready for the solver.

    Attributes:
        keys: softly preserved keys (m, d), each distinct one once; None where there are none.
        weight: how much each counts.
        held: the span of the held keys; None where nothing is held.
        skipped: built-in prompts left out because they name a concept that is edited.
    """

    keys: torch.Tensor | None
    weight: float
    held: HeldSpan | None
    skipped: tuple[str, ...]

    def as_arguments(self) -> dict[str, Any]:
        """The arguments of :func:`solve` and its like that guard an edit."""
        return {"preserve": self.keys, "preserve_weight": self.weight, "held": self.held}


def build_guard(
    tower: TextTower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> Guard:
    """The guard that some settings ask for.

    Raises:
        PromptError: a preserved prompt, none of the built-in ones, names a concept that is edited.
        HeldError: the held prompts leave no room for any edit.
    """
    soft, skipped = _without_concepts(settings.preserve, concepts, tokenizer)
    hold, skipped_too = _without_concepts(settings.hold, concepts, tokenizer)
    keys = preserved_keys(tower, tokenizer, soft, settings.layer) if settings.preserve_weight else None
    held = preserved_keys(tower, tokenizer, hold, settings.layer)
    return Guard(
        keys, settings.preserve_weight, None if held is None else HeldSpan.of(held), (*skipped, *skipped_too)
    )


def preserved_keys(
    tower: TextTower, tokenizer: PromptTokenizer, prompts: Sequence[str], layer: int
) -> torch.Tensor | None:
    """Keys (m, d) of every position of some prompts, each distinct one once; None without prompts.

    Padding is preserved too. Stable Diffusion reads it, and a padding key carries what its prompt says: the concept's
    own padding has attended to the concept, a preserved prompt's has not, so keeping the one leaves the other free.
    """
    if not prompts:
        return None
    ids = [prompt.ids for prompt in tokenizer.tokenize_all(list(prompts))]
    # The tower is causal: equal beginnings give equal keys (BOS is the same in all prompts).
    first = {row[: place + 1]: (number, place) for number, row in enumerate(ids) for place in range(len(row))}
    rows, places = zip(*first.values(), strict=True)
    return tower.attention_inputs(ids, layer)[list(rows), list(places)]


def prompts_of_text(text: str) -> tuple[str, ...]:
    """The prompts of a list, one on each line, each once; a line ``""`` is the empty prompt, an empty line nothing."""
    lines = (line.strip() for line in text.lstrip("\ufeff").splitlines())
    return tuple(dict.fromkeys("" if line == EMPTY_LINE else line for line in lines if line))


def text_of_prompts(prompts: Sequence[str]) -> str:
    """A list that :func:`prompts_of_text` reads back."""
    return "\n".join(prompt or EMPTY_LINE for prompt in prompts)


def preserve_set(name: str) -> tuple[str, ...]:
    """A built-in set of :data:`PRESERVE_SETS` by name.

    Raises:
        PromptError: there is none of this name.
    """
    if name not in PRESERVE_SETS:
        raise PromptError(f"Unknown preserve set {name!r}; expected one of: {'; '.join(PRESERVE_SETS)}.")
    return PRESERVE_SETS[name]


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
