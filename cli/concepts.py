"""The edits that were asked for, as concepts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..quickfix import ConceptEdit


def read_concepts(edits: Sequence[str], file: str | None, kind: str) -> list[ConceptEdit]:
    """Concepts from ``source -> target`` texts and from the lines of a file; ``#`` starts a comment line.

    Raises:
        ValueError: a line is no edit; the message names it.
        OSError: the file cannot be read.
    """
    concepts = [_concept(text, kind, "--edit") for text in edits]
    if file is not None:
        for number, line in enumerate(Path(file).read_text(encoding="utf-8-sig").splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#"):
                concepts.append(_concept(line, kind, f"{file}:{number}"))
    return concepts


def _concept(text: str, kind: str, where: str) -> ConceptEdit:
    source, arrow, target = text.partition("->")
    if not arrow:
        raise ValueError(f'{where}: {text.strip()!r} is no edit; expected "SOURCE -> TARGET".')
    return ConceptEdit(source, target.strip() or None, kind)
