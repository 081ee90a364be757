"""One concept and what it becomes."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from ...text.captions import KINDS, default_target, default_templates
from ...text.prompts import PromptError
from .lines import visible


@dataclass(frozen=True)
class ConceptEdit:
    """One concept and what it becomes.

    Args:
        source: the concept to edit away, as prompts write it ("van gogh").
        target: what it becomes ("painting"); None takes the kind's default.
        kind: one of ``KINDS``; sets the default templates and target.
        templates: captions with ``{x}`` for the concept; None takes the kind's default.
        weight: how much the concept's pairs count beside those of other concepts.

    Raises:
        PromptError: empty or identical source and target, unknown kind, kind "custom" without templates, a weight that
            is not a finite number above 0.
    """

    source: str
    target: str | None
    kind: str = "style"
    templates: tuple[str, ...] | None = None
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PromptError(f"Unknown kind of concept {self.kind!r}; expected one of {', '.join(KINDS)}.")
        source = _plain(self.source)
        target = _plain(self.target if self.target is not None else default_target(self.kind) or "")
        if not source:
            raise PromptError('The source concept is empty; name what to edit away, such as "van gogh".')
        if not target:
            raise PromptError(
                f'The target of {source!r} is empty and kind "{self.kind}" has no default; name one, such as "dog".'
            )
        if source.casefold() == target.casefold():
            raise PromptError(f"The source and the target are both {source!r}; name a different target.")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise PromptError(f"The weight of {source!r} is {self.weight}; expected a finite number above 0.")
        templates = default_templates(self.kind) if self.templates is None else tuple(self.templates)
        for name, value in (("source", source), ("target", target), ("templates", templates)):
            object.__setattr__(self, name, value)


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", visible(text)).strip()
