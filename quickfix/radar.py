"""Collateral radar: which of very many names and captions an edit moves without being asked to.

Only the edited layer's attention is run, in batches, and one product with the update's factors says how far every prompt
moves: the drift of the edit's report, for each prompt of a long list. What moves most is proposed as a preserve set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..prompts import PromptTokenizer, naming_any
from .guard import text_of_prompts
from .names import KNOWN_NAMES
from .report import Probe
from .solve import LowRank
from .tower import TextTower
from .weight_edit import WeightEdit

# Prompts looked at in one go; bounds the memory.
_BATCH = 128
# A hit is worth preserving when it moves by more than this share of what the worst one does.
_WORTH = 0.25


class Hit(NamedTuple):
    """A prompt, and the relative L2 change of its residual stream right after the edited attention."""

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
            "hits": [hit._asdict() for hit in self.hits], "scanned": self.scanned, "named": self.named,
            "median": self.median, "proposal": list(self.proposal()),
        }  # fmt: skip


@torch.no_grad()
def scan(
    tower: TextTower,
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
    asked = [prompt for prompt in distinct if prompt not in naming]
    update = LowRank(edit.up, edit.down)
    starts = range(0, len(asked), _BATCH)
    drifts: list[float] = []
    for number, start in enumerate(starts, 1):
        batch = tokenizer.tokenize_all(asked[start : start + _BATCH])
        drifts += Probe.of(tower, edit.settings.layer, batch).drifts(update).tolist()
        if progress is not None:
            progress(number, len(starts))
    order = sorted(range(len(asked)), key=lambda i: (-drifts[i], i))
    hits = tuple(Hit(asked[i], drifts[i]) for i in order[: max(0, most)] if drifts[i] > 0)
    median = float(torch.tensor(drifts).median()) if drifts else 0.0
    return Radar(hits, len(asked), len(distinct) - len(asked), median)
