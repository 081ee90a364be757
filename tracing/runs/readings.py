"""A prompt as one text encoder reads it: its tokens, the subject's among them, and what hides the subject there."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

from ...families.text_stacks import TextStack
from ...text.prompts import TokenizedPrompt
from ...text.rows import PLAIN_WORDS, Row, RowTokenizer, mentions
from ...text.subjects import places
from .cases import Share
from .corruption import EXTENTS, Corruption, CorruptionError, CorruptionSettings, gaussian, replacement

# Tokens of the longest prompt that is read whole.
_CONTEXT = 4096
_SPACES = "\u2581\u0120 "
# What the seed of the noise grows by from one text encoder to the next.
_NEXT_ENCODER = 104729


class TracedEncoder(Protocol):
    """A text encoder, whoever runs it."""

    @property
    def name(self) -> str:
        """As it stands in the names of its sites; "" for the only one."""
        ...

    @property
    def stack(self) -> TextStack:
        """Its layers."""
        ...

    @property
    def title(self) -> str:
        """The encoder, in messages."""
        ...

    def embeddings(self, tokens: Sequence[Any], device: torch.device) -> torch.Tensor:
        """The embeddings (tokens, width) of what the encoder is given; fp32, on the CPU."""
        ...


E = TypeVar("E", bound=TracedEncoder)


@dataclass(frozen=True)
class Reading(Generic[E]):
    """A prompt in one text encoder.

    Attributes:
        encoder: the encoder.
        given: what the encoder is given of the part that holds the subject: token ids and vectors.
        tokens: the same as tokens.
        subjects: where the subject stands in them, each time.
        labels: what the positions show, up to the end of the text.
        chunks: how many parts the prompt is cut into.
        chunk: which of them holds the subject.
        others: for each of ``subjects`` what the encoder is given of the words that take its place.
        pads: positions of padding that stands before a template's end.
    """

    encoder: E
    given: tuple[Any, ...]
    tokens: TokenizedPrompt
    subjects: tuple[range, ...]
    labels: tuple[str, ...]
    chunks: int = 1
    chunk: int = 0
    others: tuple[tuple[Any, ...], ...] = ()
    pads: frozenset[int] = frozenset()

    @property
    def subject(self) -> range:
        """The subject that places are counted from: the last."""
        return self.subjects[-1]

    def places(self) -> dict[str, tuple[int, ...] | None]:
        """Token positions by the names of places; empty where the prompt has none."""
        found = places(self.tokens, self.subject, causal=self.encoder.stack.causal)
        if self.pads:
            found["end of text"] = tuple(spot for spot in found["end of text"] or () if spot not in self.pads)
            found["padding"] = (*sorted(self.pads), *(found["padding"] or ()))
        return found

    def pools(self, positions: tuple[int, ...] | None) -> bool:
        """Whether the encoder's pooled vector is read at some of these positions: CLIP's is the state at the end of
        the text's first part, others' are of all tokens."""
        if positions is None:
            return True
        return self.encoder.stack.shape == "clip" and not self.chunk and self.tokens.eos in positions

    def columns(self) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """Labels and positions of each token that can tell of the subject, and of the padding together.

        In an encoder that is not causal these are all tokens of the text. Labels that stand twice are told apart by
        their positions.
        """
        causal = self.encoder.stack.causal
        first = min(self.subjects[0]) if causal else self.tokens.start
        last = min(self.tokens.eos + 1, len(self.tokens.ids))
        spots = [place for place in range(first, last) if place not in self.pads]
        words = [self.labels[place] for place in spots]
        labels = [word if words.count(word) == 1 else f"{word} ({i})" for word, i in zip(words, spots, strict=True)]
        positions: list[tuple[int, ...]] = [(place,) for place in spots]
        if padding := self.places()["padding"]:
            labels, positions = [*labels, "<padding>"], [*positions, padding]
        return tuple(labels), tuple(positions)

    def corruption(self, multiple: float, draws: int, seed: int, device: torch.device, *, whole: bool) -> Corruption:
        """What hides the subject: other words where there are any, else noise; and one draw of noise more.

        Args:
            multiple: std of the noise, as a multiple of that of the embeddings that it hides.
            whole: hide every token from the text's beginning on, padding and a template's end too.

        Raises:
            CorruptionError: the noise is empty, or the other words have more tokens than the subject.
        """
        read = self.encoder.embeddings(self.given, device)
        own = sorted(set(itertools.chain.from_iterable(self.subjects)))
        positions = tuple(range(self.tokens.start, len(read)) if whole else own)
        try:
            noise = gaussian(read[list(positions)], positions, multiple=multiple, draws=draws + 1, seed=seed)
            if not self.others:
                return noise
            shift = torch.zeros(1, len(read), read.shape[1])
            for subject, words in zip(self.subjects, self.others, strict=True):
                spots = tuple(subject)
                shift[:, list(spots)] = replacement(
                    read[list(spots)], spots, self.encoder.embeddings(words, device)
                ).deltas
        except CorruptionError as error:
            if not self.encoder.name:
                raise
            raise CorruptionError(f"In {self.encoder.title}: {error}") from error
        return Corruption(positions, torch.cat([shift[:, list(positions)], noise.deltas[:1]]), 0.0, seed)


def read_row(
    encoder: E,
    text: str,
    subject: str,
    replaced_by: str,
    row: Callable[[str], tuple[tuple[int, ...], list[int]]],
    unreadable: frozenset[int],
    label: Callable[[int], str],
) -> Reading[E]:
    """A prompt as an encoder that is no CLIP reads it.

    Args:
        text: the prompt, its letters composed (NFC) as the subject's are.
        replaced_by: words that take the subject's place; "" for none.
        row: gives the token ids of a text, and the positions of those that are no padding.
        unreadable: tokens that stand for what the encoder cannot read.
        label: what a token shows.

    Raises:
        PromptError: a prompt longer than the context.
        SubjectError: the subject is not in the prompt.
    """

    def unpadded(text: str) -> Row:
        ids, kept = row(text)
        return Row(tuple(ids[place] for place in kept), len(kept))

    title = f"T{encoder.title[1:]}"
    tokenizer = RowTokenizer(unpadded, context_length=_CONTEXT, unreadable=unreadable, title=title)
    ids, kept = row(text)
    spans, others = [], []
    for place in mentions(text, subject):
        before, after = text[: place.start], text[place.stop :]
        span = tokenizer.span(before, text[place.start : place.stop], after, PLAIN_WORDS)
        spans.append(range(kept[span[0]], kept[span[-1]] + 1))
        if replaced_by:
            other, where = row(before + replaced_by + after)
            span = tokenizer.span(before, replaced_by, after, PLAIN_WORDS)
            others.append(tuple(other[where[position]] for position in span))
    short = tokenizer.tokenize(text)
    start = (*kept, kept[-1] + 1)[short.start]
    stop = kept[short.last_word] + 1 if short.body else start
    tokens = TokenizedPrompt(text, ids, kept[-1], (), start=start, stop=stop)
    labels = tuple(label(token) for token in ids[: kept[-1] + 1])
    pads = frozenset(range(kept[-1])) - frozenset(kept)
    return Reading(encoder, ids, tokens, tuple(spans), labels, others=tuple(others), pads=pads)


def shown_token(text: str, piece: Callable[[], object]) -> str:
    """What a token shows: its text, or the tokenizer's own ``piece`` where it is a part of a letter."""
    if not text.strip() or "\ufffd" in text:
        text = str(piece())
    shown = text.strip().strip(_SPACES) or "<space>"
    return shown if shown.isprintable() else repr(shown)


def shares_of(
    readings: Sequence[Reading[Any]], settings: CorruptionSettings, device: torch.device
) -> tuple[Share, ...]:
    """What each text encoder is given of a corrupted prompt; each has noise of its own, by its own embeddings.

    Args:
        device: where embeddings are looked up.

    Raises:
        CorruptionError: the noise is empty, or the replacing words have more tokens than the subject.
    """
    shares = []
    for number, reading in enumerate(readings):
        corruption = reading.corruption(
            settings.multiple,
            settings.traced,
            settings.seed + _NEXT_ENCODER * number,
            device,
            whole=settings.extent != EXTENTS[0],
        )
        encoder = reading.encoder
        shares.append(Share(encoder.name, corruption, encoder.stack.entry, reading.chunks, reading.chunk))
    return tuple(shares)
