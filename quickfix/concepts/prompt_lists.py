"""Lists of prompts as text."""

from __future__ import annotations

from collections.abc import Sequence

# How a list of prompts writes the empty one, since an empty line means nothing.
EMPTY_LINE = '""'


def prompts_of_text(text: str) -> tuple[str, ...]:
    """The prompts of a list, one on each line, each once; a line ``""`` is the empty prompt, an empty line nothing."""
    lines = (line.strip() for line in text.lstrip("\ufeff").splitlines())
    return tuple(dict.fromkeys("" if line == EMPTY_LINE else line for line in lines if line))


def text_of_prompts(prompts: Sequence[str]) -> str:
    """A list that :func:`prompts_of_text` reads back."""
    return "\n".join(prompt or EMPTY_LINE for prompt in prompts)
