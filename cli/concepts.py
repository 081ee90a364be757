"""The edits that were asked for, as concepts."""

from __future__ import annotations

from collections.abc import Sequence

from ..quickfix import ConceptList, combine, parse_concepts, read_concepts


def asked_concepts(edits: Sequence[str], file: str | None, kind: str) -> ConceptList:
    """Concepts from texts and from a file; ``kind`` is that of texts without settings of their own.

    Raises:
        ConceptListError: a text or the file cannot be read; one source has two targets.
    """
    own = parse_concepts("\n".join(edit if "|" in edit else f"{edit} | kind={kind}" for edit in edits))
    listed = ConceptList(()) if file is None else read_concepts(file)
    both = combine(own.concepts, listed.concepts)
    return ConceptList(both.concepts, (*own.notes, *listed.notes, *both.notes))
