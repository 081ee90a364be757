"""Which token of a source caption learns from which token of a target caption.

A caption template is filled with the source and with the target. The last subject token of the one is paired with that
of the other; with padding, every later position too, up to the end of the context, since CLIP's padding attends to the
subject and Stable Diffusion reads the padding. Where the target caption runs out its last position is used again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..prompts import PromptError, PromptTokenizer, TokenizedPrompt, expand, find_subject

POSITIONS = ("last subject token", "last subject token and padding")


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of token positions over distinct captions.

    Attributes:
        captions: the distinct captions.
        source, target: (n, 2) indices: a caption, a position in it.
    """

    captions: tuple[TokenizedPrompt, ...]
    source: torch.Tensor
    target: torch.Tensor

    def __len__(self) -> int:
        return len(self.source)

    @property
    def ids(self) -> torch.Tensor:
        """Token ids of the captions, (captions, context length)."""
        return torch.tensor([caption.ids for caption in self.captions], dtype=torch.long)


def match_positions(source: int, target: int, length: int, positions: str) -> tuple[range, tuple[int, ...]]:
    """Positions of one caption pair: s + j beside min(t + j, length - 1).

    Args:
        source, target: the last subject token of each caption.
        length: the context length.
        positions: one of :data:`POSITIONS`.

    Raises:
        PromptError: unknown ``positions``.
    """
    if positions not in POSITIONS:
        raise PromptError(f"Unknown positions {positions!r}; expected one of: {'; '.join(POSITIONS)}.")
    sources = range(source, source + 1 if positions == POSITIONS[0] else length)
    return sources, tuple(min(target + j, length - 1) for j in range(len(sources)))


def pair_tokens(
    tokenizer: PromptTokenizer,
    concepts: Sequence[tuple[str, str, Sequence[str]]],
    positions: str,
) -> TokenPairs:
    """All pairs of some concepts, each given as (source, target, templates).

    Raises:
        PromptError, SubjectError: a template without ``{x}``; a concept cut off at the context length.
    """
    captions: dict[str, int] = {}
    wanted: list[tuple[str, str, str, str, str]] = []
    for source, target, templates in concepts:
        filled = zip(templates, expand(templates, source), expand(templates, target), strict=True)
        for template, source_text, target_text in filled:
            captions.setdefault(source_text, len(captions))
            captions.setdefault(target_text, len(captions))
            wanted.append((template, source_text, source, target_text, target))
    prompts = tokenizer.tokenize_all(list(captions))
    found: dict[tuple[str, str, str], int] = {}

    def subject_token(template: str, text: str, concept: str) -> int:
        case = (template, text, concept)
        if case not in found:
            found[case] = _subject_token(prompts[captions[text]], template, concept, tokenizer)
        return found[case]

    sources, targets = [], []
    for template, source_text, source, target_text, target in wanted:
        s = subject_token(template, source_text, source)
        t = subject_token(template, target_text, target)
        there, here = match_positions(s, t, tokenizer.context_length, positions)
        sources += [(captions[source_text], position) for position in there]
        targets += [(captions[target_text], position) for position in here]
    shape = (len(sources), 2)
    return TokenPairs(
        tuple(prompts), torch.tensor(sources).long().reshape(shape), torch.tensor(targets).long().reshape(shape)
    )


def _subject_token(prompt: TokenizedPrompt, template: str, concept: str, tokenizer: PromptTokenizer) -> int:
    places = find_subject(prompt, concept, tokenizer)
    before, after = template.rsplit("{x}", 1)
    if after.strip():
        # Words after the concept may repeat it ("{x} and a cat" for a cat): take the one that was filled in.
        start = 1 + len(tokenizer.word_ids(before.replace("{x}", concept)))
        places = tuple(place for place in places if place.start == start) or places
    return places[-1][-1]
