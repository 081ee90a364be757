"""Which token of a source caption learns from which token of a target caption.

A caption template is filled with the source and with the target. The last subject token of the one is paired with that
of the other; with later ones, what follows up to the end of the text too; with padding, every position up to the end of
the context, since CLIP's padding attends to the subject and Stable Diffusion reads the padding. Where the target
caption runs out its last position is used again.

Where every token reads every other (T5), the subject is in all of them: of the whole aligned caption, what stands
before, in and behind the subject is paired with the same of the other caption, and padding with padding. Where states
of CLIP stand behind those (Stable Diffusion 3), its last subject token and later ones are paired too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...text.captions import expand
from ...text.prompts import PromptError, PromptTokenizer, TokenizedPrompt
from ...text.rows import FILL, RowTokenizer, aligned, tokens_of
from ...text.subjects import find_subject

POSITIONS = ("last subject token", "last subject token and padding", "last subject token and later")
ALIGNED = "whole aligned caption"
"""The positions for text encoders that read every token with all others; no choice for CLIP."""


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of token positions over distinct captions.

    Attributes:
        captions: the distinct captions.
        source, target: (n, 2) indices: a caption, a position in it.
        counts: how many of the pairs, in order, belong to each concept.
    """

    captions: tuple[TokenizedPrompt, ...]
    source: torch.Tensor
    target: torch.Tensor
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source)

    @property
    def ids(self) -> torch.Tensor:
        """Token ids of the captions, (captions, context length)."""
        return torch.tensor([caption.ids for caption in self.captions], dtype=torch.long)


def match_positions(
    source: int, target: int, length: int, positions: str, ends: tuple[int, int] | None = None
) -> tuple[range, tuple[int, ...]]:
    """Positions of one caption pair: s + j beside min(t + j, last), last being the target caption's last position.

    Args:
        source, target: the last subject token of each caption.
        length: the context length.
        ends: the last position of each caption that counts; needed for "last subject token and later", otherwise the
            context's last one where there are none.
        positions: one of :data:`POSITIONS`.

    Raises:
        PromptError: unknown ``positions``.
    """
    if positions not in POSITIONS:
        raise PromptError(f"Unknown positions {positions!r}; expected one of: {'; '.join(POSITIONS)}.")
    last, end = length, length
    if ends is not None:
        last, end = ends[0] + 1, ends[1] + 1
    sources = range(source, source + 1 if positions == POSITIONS[0] else last)
    return sources, tuple(min(target + j, end - 1) for j in range(len(sources)))


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
    for source, target, templates in concepts:
        for text in (*expand(templates, source), *expand(templates, target)):
            captions.setdefault(text, len(captions))
    prompts = tokenizer.tokenize_all(list(captions))
    find = _SubjectFinder(tokenizer, [name for source, target, _ in concepts for name in (source, target)])
    behind = _PairsBehind(tokenizer.behind) if isinstance(tokenizer, RowTokenizer) and tokenizer.behind else None
    columns: tuple[list[int], ...] = ([], [], [], [])
    counts = []
    for source, target, templates in concepts:
        before = len(columns[0])
        for template in templates:
            here, there = (captions[template.replace("{x}", name)] for name in (source, target))
            ends = _ends(prompts[here], tokenizer, positions), _ends(prompts[there], tokenizer, positions)
            sources: Sequence[int]
            targets: Sequence[int]
            if positions == ALIGNED:
                if not isinstance(tokenizer, RowTokenizer):
                    raise PromptError(
                        f'CLIP reads from left to right: no token knows what stands behind it. Take "{POSITIONS[0]}" '
                        f'or "{POSITIONS[2]}" instead of "{positions}".'
                    )
                spans = tokenizer.spans(template, source), tokenizer.spans(template, target)
                sources, targets = aligned(*spans, (ends[0] + 1, ends[1] + 1))
                if behind is not None:
                    rows, beside = behind(template, (source, target), (prompts[here], prompts[there]))
                    sources, targets = [*sources, *rows], [*targets, *beside]
            else:
                s, t = find(prompts[here], template, source), find(prompts[there], template, target)
                later = None if positions == POSITIONS[1] and not isinstance(tokenizer, RowTokenizer) else ends
                sources, targets = match_positions(s, t, tokenizer.context_length, positions, later)
            parts = ([here] * len(sources), sources, [there] * len(targets), targets)
            for column, part in zip(columns, parts, strict=True):
                column.extend(part)
        counts.append(len(columns[0]) - before)
    table = torch.tensor(columns, dtype=torch.long).T
    return TokenPairs(tuple(prompts), table[:, :2].contiguous(), table[:, 2:].contiguous(), tuple(counts))


def _ends(prompt: TokenizedPrompt, tokenizer: PromptTokenizer, positions: str) -> int:
    """The last position of a caption that counts: the end of its text, or of its padding."""
    if positions in (POSITIONS[1], ALIGNED) and isinstance(tokenizer, RowTokenizer):
        return sum(token > FILL for token in prompt.ids) - 1
    return prompt.eos


class _SubjectFinder:
    """The last subject token of captions made from templates; each is looked for once."""

    def __init__(self, tokenizer: PromptTokenizer, names: Sequence[str]) -> None:
        distinct = list(dict.fromkeys(names))
        self._tokenizer = tokenizer
        self._words = (
            {}
            if isinstance(tokenizer, RowTokenizer)
            else dict(zip(distinct, tokenizer.word_ids_all(distinct), strict=True))
        )
        self._found: dict[tuple[str, str], int] = {}

    def __call__(self, prompt: TokenizedPrompt, template: str, concept: str) -> int:
        case = (template, concept)
        if case not in self._found:
            self._found[case] = self._find(prompt, template, concept)
        return self._found[case]

    def _find(self, prompt: TokenizedPrompt, template: str, concept: str) -> int:
        if isinstance(self._tokenizer, RowTokenizer):
            return self._tokenizer.spans(template, concept)[-1][-1]
        places = find_subject(prompt, concept, self._tokenizer, self._words[concept])
        before, after = template.rsplit("{x}", 1)
        if after.strip():
            # Words after the concept may repeat it ("{x} and a cat" for a cat): take the one that was filled in.
            start = 1 + len(self._tokenizer.word_ids(before.replace("{x}", concept)))
            places = tuple(place for place in places if place.start == start) or places
        return places[-1][-1]


class _PairsBehind:
    """Pairs of the tokens of a CLIP whose states stand behind the others': the last subject token and later."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(
        self, template: str, names: tuple[str, str], prompts: tuple[TokenizedPrompt, TokenizedPrompt]
    ) -> tuple[list[int], list[int]]:
        find = _SubjectFinder(self._tokenizer, names)
        own = self._tokenizer.tokenize_all([prompt.text for prompt in prompts])
        source, target = (find(prompt, template, name) for prompt, name in zip(own, names, strict=True))
        sources, targets = match_positions(
            source, target, self._tokenizer.context_length, POSITIONS[2], (own[0].eos, own[1].eos)
        )
        here, there = (len(tokens_of(prompt.ids)[0]) for prompt in prompts)
        return [here + place for place in sources], [there + place for place in targets]
