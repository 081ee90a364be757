"""Lists of prompts as text."""

from __future__ import annotations

from collections.abc import Sequence

from .lines import content_lines, taken_to_the_letter

# How a list of prompts writes the empty one, since an empty line means nothing.
EMPTY_LINE = '""'


def prompts_of_text(text: str) -> tuple[str, ...]:
    """The prompts of a list, one on each line, each once.

    Bullets, comments, invisible characters and quotes around a whole line do not count (``lines.py``); a line ``""`` is
    the empty prompt, an empty line nothing.
    """
    lines = (line.strip() for _, line in content_lines("\n".join(text.lstrip("\ufeff").splitlines())))
    return tuple(dict.fromkeys(line[1:-1].strip() if taken_to_the_letter(line) else line for line in lines))


def text_of_prompts(prompts: Sequence[str]) -> str:
    """A list that :func:`prompts_of_text` reads back."""
    return "\n".join(map(_written, prompts))


def _written(prompt: str) -> str:
    """A prompt as a line; in quotes where it would be read otherwise."""
    forms = (f"{quote}{prompt}{quote}" for quote in ("", '"', "'", "`"))
    return next((line for line in forms if prompts_of_text(line) == (prompt,)), prompt or EMPTY_LINE)
