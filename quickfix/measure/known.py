"""Words that a text encoder does not know: an edit of them is an edit of nothing."""

from __future__ import annotations

from collections.abc import Sequence

from ...text.prompts import PromptTokenizer
from ..concepts.concept import ConceptEdit
from ..encoder.towers import Tower
from .verdict import Unknown

# Names that a report lists.
_TOLD = 20


def unknown_names(tower: Tower, tokenizer: PromptTokenizer, names: Sequence[str]) -> frozenset[str]:
    """Those of some names of which the text encoder has a token that says nothing (``untrained_tokens``)."""
    words = dict(zip(names, tokenizer.word_ids_all(list(names)), strict=True))
    untrained = tower.untrained_tokens(token for ids in words.values() for token in ids)
    return frozenset(name for name, ids in words.items() if not untrained.isdisjoint(ids))


def known_concepts(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit]
) -> tuple[ConceptEdit, ...]:
    """Those of some concepts of which the text encoder knows source and target."""
    unknown = unknown_names(tower, tokenizer, _names(concepts))
    return tuple(concept for concept in concepts if unknown.isdisjoint((concept.source, concept.target)))


def tell_unknown(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], agree: bool
) -> Unknown | None:
    """What of some concepts the text encoder does not know; None where it knows all.

    Args:
        agree: whether the states of all sources are those of their targets.
    """
    names = unknown_names(tower, tokenizer, _names(concepts))
    known = [concept for concept in concepts if names.isdisjoint((concept.source, concept.target))]
    if len(known) == len(concepts) and not agree:
        return None
    sources, targets = (
        tuple(dict.fromkeys(name for name in ends if name in names))[:_TOLD]
        for ends in ([concept.source for concept in concepts], [concept.target or "" for concept in concepts])
    )
    same = [(concept.source, concept.target or "") for concept in known if agree]
    return Unknown(sources, targets, tuple(same[:_TOLD]), 0 if agree else len(known))


def _names(concepts: Sequence[ConceptEdit]) -> list[str]:
    return list(dict.fromkeys(name for concept in concepts for name in (concept.source, concept.target or "")))
