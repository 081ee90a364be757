"""Collateral radar: which of very many names and captions an edit moves without being asked to.

Only the edited layer's attention is run, on words alone, in batches; one product with the update's factor says how far
each prompt moves. What moves most is proposed as a preserve set.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...text.prompts import PromptTokenizer, TokenizedPrompt
from ...text.subjects import naming_any
from ..concepts.built_in import KNOWN_NAMES
from ..concepts.prompt_lists import text_of_prompts
from ..encoder.towers import Tower, beginnings, up_to
from ..solver.low_rank import LowRank
from .weight_edit import WeightEdit

# Prompts looked at in one go; bounds the memory.
_BATCH = 256
# The update's factor carries all but this share of it: drifts are good to three digits.
_ACCURACY = 1e-4
# A hit is worth preserving when it moves by more than this share of what the worst one does.
_WORTH = 0.25


class Hit(NamedTuple):
    """A prompt, and the relative L2 change of the residual stream at its words and its end, right after the edited
    attention. Padding does not count, unlike in the report's drift: a name is met within longer prompts."""

    prompt: str
    drift: float


@dataclass(frozen=True)
class Radar:
    """What an edit moves.

    Attributes:
        hits: the prompts that move most, the worst first.
        scanned: how many prompts were looked at.
        named: how many were left out because they name an edited concept.
        median: the median drift of all that were looked at.
    """

    hits: tuple[Hit, ...]
    scanned: int
    named: int
    median: float

    def proposal(self, most: int | None = None) -> tuple[str, ...]:
        """Prompts worth preserving, the worst first: those that move by more than the median, and by more than a
        quarter of what the worst one does; at most ``most``."""
        floor = max(self.median, _WORTH * self.hits[0].drift) if self.hits else 0.0
        return tuple(hit.prompt for hit in self.hits if hit.drift > floor)[:most]

    def text(self) -> str:
        """A summary for people: the hits, one on each line."""
        lines = [
            f"looked at {self.scanned} prompts; half of them move by less than {self.median:.2%}"
            + (f"; {self.named} name an edited concept and were left out" if self.named else "")
        ]
        return "\n".join([*lines, *(f"{hit.drift:8.2%}  {hit.prompt}" for hit in self.hits)])

    def preserve_text(self, most: int | None = None) -> str:
        """The proposal as a list of prompts, one on each line, as the editing node takes it."""
        return text_of_prompts(self.proposal(most))

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        return {
            "hits": [hit._asdict() for hit in self.hits],
            "scanned": self.scanned,
            "named": self.named,
            "median": self.median,
            "proposal": list(self.proposal()),
        }


@torch.no_grad()
def scan(
    tower: Tower,
    tokenizer: PromptTokenizer,
    edit: WeightEdit,
    prompts: Sequence[str] = KNOWN_NAMES,
    *,
    most: int = 20,
    progress: Callable[[int, int], None] | None = None,
) -> Radar:
    """Rank prompts by how far an edit moves them.

    Args:
        tower: the text encoder with its weights as they were before the edit.
        prompts: names or captions; each counts once, and those that name an edited concept not at all.
        most: how many hits are kept.
        progress: called with (batches done, all batches); an exception it raises ends the work.

    Raises:
        TowerError: token ids or weights that cannot be used.
    """
    distinct = tuple(dict.fromkeys(prompts))
    naming = naming_any(distinct, [concept.source for concept in edit.concepts], tokenizer)
    # Prompts of about the same length go together, so that little is computed behind their ends.
    asked = sorted((part for parts in tokenizer.parts_all(distinct) for part in parts), key=lambda part: part.eos)
    asked = [part for part in asked if part.text not in naming]
    update = tower.in_keys(LowRank(edit.up, edit.down)).truncated(_ACCURACY)
    starts = range(0, len(asked), _BATCH)
    # Squares of how far the words of a prompt move, and of their size, summed over its parts.
    moves: dict[str, tuple[float, float]] = {}
    for number, start in enumerate(starts, 1):
        batch = asked[start : start + _BATCH]
        for part, (moved, size) in zip(batch, _moves(tower, edit.settings.layer, update, batch), strict=True):
            before = moves.get(part.text, (0.0, 0.0))
            moves[part.text] = before[0] + moved**2, before[1] + size**2
        if progress is not None:
            progress(number, len(starts))
    hits = [Hit(text, (moved / size) ** 0.5) for text, (moved, size) in moves.items()]
    worst = sorted((hit for hit in hits if hit.drift > 0), key=lambda hit: (-hit.drift, hit.prompt))
    median = statistics.median(hit.drift for hit in hits) if hits else 0.0
    return Radar(tuple(worst[: max(0, most)]), len(hits), len(distinct) - len(hits), median)


@torch.no_grad()
def names_gram(tower: Tower, tokenizer: PromptTokenizer, layer: int, prompts: Sequence[str]) -> torch.Tensor:
    """Gram matrix (d, d) of keys E scaled so that ||delta E|| is the root mean square of some prompts' drifts, those of
    :class:`Hit`, under an update delta of a layer."""
    asked = sorted(tokenizer.tokenize_all(list(prompts)), key=lambda prompt: prompt.eos)
    total = torch.zeros(tower.width, tower.width, dtype=torch.float64)
    for start in range(0, len(asked), _BATCH):
        inputs, residual, counted = _words(tower, layer, asked[start : start + _BATCH])
        sizes = (residual * counted).flatten(1).norm(dim=1)
        rows = (inputs / sizes[:, None, None])[counted[..., 0]].double()
        total = total.to(rows) + rows.T @ rows
    return total / max(1, len(asked))


def _moves(tower: Tower, layer: int, update: LowRank, prompts: Sequence[TokenizedPrompt]) -> list[tuple[float, float]]:
    """How far the residual stream moves at the words and the end of each prompt, and its size there."""
    inputs, residual, counted = _words(tower, layer, prompts)
    moved, size = ((part * counted).flatten(1).norm(dim=1) for part in (update.coordinates(inputs), residual))
    return list(zip(moved.tolist(), size.tolist(), strict=True))


def _words(
    tower: Tower, layer: int, prompts: Sequence[TokenizedPrompt]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention states of prompts (n, positions, d), and which positions are words or the end, (n, positions, 1)."""
    ends = [prompt.eos for prompt in prompts]
    rows = up_to(tower, beginnings(tower, prompts, max(ends) + 1), torch.tensor(ends))
    inputs, residual = tower.attention_states(rows, layer)
    places = torch.arange(inputs.shape[1], device=inputs.device)
    starts = torch.tensor([prompt.start for prompt in prompts], device=inputs.device)
    # What stands before the text is the same in all prompts, and BOS is large.
    counted = ((places >= starts[:, None]) & (places <= torch.tensor(ends, device=inputs.device)[:, None]))[..., None]
    return inputs, residual, counted
