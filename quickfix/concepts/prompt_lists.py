"""Lists of prompts as text, and the built-in sets by name."""

from __future__ import annotations

from collections.abc import Sequence

from ...text.prompts import PromptError
from .everyday import PRESERVE_SETS

# How a list of prompts writes the empty one, since an empty line means nothing.
EMPTY_LINE = '""'


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
