"""Concepts that contradict each other."""

from __future__ import annotations

from collections.abc import Sequence

from ...text.captions import expand
from ...text.prompts import PromptError, PromptTokenizer
from .concept import ConceptEdit
from .pairs import POSITIONS, pair_tokens


def refuse_conflicts(concepts: Sequence[ConceptEdit], tokenizer: PromptTokenizer) -> None:
    """Refuse a list of concepts that cannot be edited together.

    Raises:
        PromptError: no concepts; a source that is its own target, or has two targets, told by their tokens; a template
            without ``{x}``.
        SubjectError: a concept cut off at the context length.
    """
    if not concepts:
        raise PromptError("No concepts to edit were given; expected at least one.")
    names = list(dict.fromkeys(name for concept in concepts for name in (concept.source, concept.target or "")))
    words = dict(zip(names, tokenizer.word_ids_all(names), strict=True))
    targets: dict[tuple[int, ...], str] = {}
    for concept in concepts:
        source, target = words[concept.source], concept.target or ""
        if source == words[target]:
            raise PromptError(f"{concept.source!r} and {target!r} are the same tokens; name a different target.")
        known = targets.setdefault(source, target)
        if known != target and words[known] != words[target]:
            raise PromptError(
                f"The concept {concept.source!r} has two targets, {known!r} and {target!r}; keep one of them."
            )
    _refuse_cut_off(concepts, words, tokenizer)


def _refuse_cut_off(
    concepts: Sequence[ConceptEdit], words: dict[str, tuple[int, ...]], tokenizer: PromptTokenizer
) -> None:
    """Pairs are made a few concepts at a time; those that may not fit into the context are made right now."""
    templates = dict.fromkeys(concept.templates or () for concept in concepts)
    room = {}
    for captions in templates:
        longest = max(len(ids) for ids in tokenizer.word_ids_all(expand(captions, "x")))
        repeats = max(caption.count("{x}") for caption in captions)
        # As words of their own the parts have no fewer tokens than together, up to what joins at the seams.
        room[captions] = (tokenizer.context_length - 2 - longest) // (2 * repeats)
    for concept in concepts:
        captions, target = concept.templates or (), concept.target or ""
        if max(len(words[concept.source]), len(words[target])) > room[captions]:
            pair_tokens(tokenizer, [(concept.source, target, captions)], POSITIONS[0])
