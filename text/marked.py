"""Prompts in which square brackets mark the subject."""

from __future__ import annotations

import re

from .subjects import SubjectError

MARKED = r"\[([^\[\]]+)\]"
"""A marked subject, as a pattern."""


def parse_prompts(text: str) -> list[tuple[str, str]]:
    """Lines of prompts with the subject in square brackets, as (prompt, subject).

    Raises:
        SubjectError: no lines, or a line without exactly one marked subject.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SubjectError("No prompt given. Write one a line with the subject in brackets: a house by [van gogh]")
    result = []
    for line in lines:
        marked = re.findall(MARKED, line)
        if len(marked) != 1:
            raise SubjectError(
                f"Found {len(marked)} subjects in brackets in the line {line!r}; expected exactly one, such as: "
                "a house by [van gogh]"
            )
        result.append((re.sub(MARKED, r"\1", line), marked[0].strip()))
    return result
