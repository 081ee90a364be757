"""Concepts that contradict each other, or what is preserved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ..prompts import PromptError, PromptTokenizer, expand
from .pairs import POSITIONS, pair_tokens
from .request import ConceptEdit, EditSettings
from .tower import TextTower

# Keys of other words have cosines up to 0.9, even with random weights.
_SAME_WAY = 0.95
_TOLD = 5


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


def near_preserved(
    tower: TextTower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> tuple[tuple[str, str, float], ...]:
    """Sources and preserved prompts whose keys point nearly the same way: to keep the one is to keep the other.

    Compared are the last subject token of the source alone and the last word of the prompt.

    Returns:
        (source, prompt, cosine), the nearest first, :data:`_TOLD` at most.
    """
    prompts = [prompt for prompt in dict.fromkeys((*settings.preserve, *settings.hold)) if prompt.strip()]
    if not prompts:
        return ()
    sources = list(dict.fromkeys(concept.source for concept in concepts))
    keys = _last_word_keys(tower, tokenizer, [*sources, *prompts], settings.layer)
    cosines = keys[: len(sources)] @ keys[len(sources) :].T
    pairs = [(sources[i], prompts[j], float(cosines[i, j])) for i, j in (cosines > _SAME_WAY).nonzero().tolist()]
    return tuple(sorted(pairs, key=lambda pair: -pair[2])[:_TOLD])


def _last_word_keys(tower: TextTower, tokenizer: PromptTokenizer, texts: Sequence[str], layer: int) -> torch.Tensor:
    """The key of each text's last word, (n, d), of length 1."""
    prompts = tokenizer.tokenize_all(list(texts))
    ends = [prompt.eos for prompt in prompts]
    longest = max(ends)
    inputs = tower.attention_inputs([prompt.ids[:longest] for prompt in prompts], layer)
    return F.normalize(inputs[list(range(len(ends))), [end - 1 for end in ends]], dim=1)


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
