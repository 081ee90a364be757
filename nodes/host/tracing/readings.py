"""A prompt as one text encoder reads it: its tokens, the subject's among them, and what hides the subject there."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass
from typing import Any

import torch

from ....text.prompts import PromptError, PromptTokenizer, TokenizedPrompt
from ....text.rows import PLAIN_WORDS, Row, RowTokenizer, mentions
from ....text.subjects import places
from ....tracing.runs.corruption import Corruption, CorruptionError, gaussian, replacement
from ..editing.row_states import plain_ids, unreadable_tokens
from ..objects import Clip
from ..prompt_parts import PromptPart, cut_prompt, find_in_parts, tokenize_naming
from .encoders import TracedEncoder

# Tokens of the longest prompt that is read whole.
_CONTEXT = 4096
_SPACES = "\u2581\u0120 "


@dataclass(frozen=True)
class Reading:
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

    encoder: TracedEncoder
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


def read_prompt(clip: Clip, encoder: TracedEncoder, prompt: str, subject: str, replaced_by: str = "") -> Reading:
    """A prompt as an encoder is given it, and its subject.

    Raises:
        PromptError: "embedding:" without a name, or in an encoder other than CLIP; a prompt too long.
        SubjectError: the subject is not in the prompt, in several of its parts, or over the seam of two.
    """
    read = _read_parts if encoder.stack.shape == "clip" else _read_row
    return read(clip, encoder, prompt, subject, replaced_by.strip())


def _read_parts(clip: Clip, encoder: TracedEncoder, prompt: str, subject: str, replaced_by: str) -> Reading:
    own = encoder.own
    parts, given = parts_of(clip, encoder, prompt)
    reader = PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=encoder.module.max_length)
    number, ranges = find_in_parts(parts, subject, reader)
    words = tuple(reader.word_ids(replaced_by)) if replaced_by else ()
    return Reading(
        encoder,
        tuple(entry[0] for entry in given[number]),
        parts[number].tokens,
        ranges,
        parts[number].labels,
        len(parts),
        number,
        (words,) * len(ranges) if replaced_by else (),
    )


def parts_of(clip: Clip, encoder: TracedEncoder, prompt: str) -> tuple[list[PromptPart], list[Any]]:
    """The parts of a prompt as a CLIP text encoder is given them, and their entries (token id or vector, ...).

    Raises:
        PromptError: "embedding:" without a name.
    """
    options = getattr(clip, "tokenizer_options", {})
    given, names = tokenize_naming(encoder.own, prompt, **({"tokenizer_options": options} if options else {}))
    width = encoder.module.transformer.get_input_embeddings().weight.shape[-1]
    return cut_prompt(prompt, given, names, encoder.own, width), given


def _read_row(clip: Clip, encoder: TracedEncoder, prompt: str, subject: str, replaced_by: str) -> Reading:
    text = unicodedata.normalize("NFC", prompt)
    subject = unicodedata.normalize("NFC", subject)
    tokenizer = _row_tokenizer(clip, encoder)
    ids, kept = _row(clip, encoder, text)
    found = mentions(text, subject)
    spans, others = [], []
    for place in found:
        before, after = text[: place.start], text[place.stop :]
        span = tokenizer.span(before, text[place.start : place.stop], after, PLAIN_WORDS)
        spans.append(range(kept[span[0]], kept[span[-1]] + 1))
        if replaced_by:
            other, where = _row(clip, encoder, before + replaced_by + after)
            span = tokenizer.span(before, replaced_by, after, PLAIN_WORDS)
            others.append(tuple(other[where[position]] for position in span))
    short = tokenizer.tokenize(text)
    start = (*kept, kept[-1] + 1)[short.start]
    stop = kept[short.last_word] + 1 if short.body else start
    tokens = TokenizedPrompt(prompt, ids, kept[-1], (), start=start, stop=stop)
    labels = tuple(_label(encoder, token) for token in ids[: kept[-1] + 1])
    pads = frozenset(range(kept[-1])) - frozenset(kept)
    return Reading(encoder, ids, tokens, tuple(spans), labels, others=tuple(others), pads=pads)


def _row(clip: Clip, encoder: TracedEncoder, text: str) -> tuple[tuple[int, ...], list[int]]:
    """The token ids of a prompt, and the positions of those that are no padding.

    Raises:
        PromptError: ComfyUI cuts the prompt into parts, or it holds an embedding.
    """
    parts = clip.tokenize(text)[encoder.stream]
    if len(parts) != 1:
        raise PromptError(
            f"ComfyUI cuts the prompt into {len(parts)} parts for {encoder.title}; only a prompt that it reads whole "
            f"can be traced. Shorten it: {text!r}"
        )
    ids, pad = plain_ids(parts, text), getattr(encoder.own, "pad_token", None)
    # A prompt of no text may be padding alone; its first token is then taken for its text.
    return ids, [place for place, token in enumerate(ids) if token != pad] or [0]


def _row_tokenizer(clip: Clip, encoder: TracedEncoder) -> RowTokenizer:
    """Compares the rows of prompts without their padding, wherever that stands."""

    def row(text: str) -> Row:
        ids, kept = _row(clip, encoder, text)
        return Row(tuple(ids[place] for place in kept), len(kept))

    return RowTokenizer(
        row,
        context_length=_CONTEXT,
        unreadable=unreadable_tokens(encoder.own),
        title=f"T{encoder.title[1:]}",
    )


def _label(encoder: TracedEncoder, token: int) -> str:
    """What a token shows: its text, or the tokenizer's own piece where it is a part of a letter."""
    inner = encoder.own.tokenizer
    text = inner.decode([token]) if hasattr(inner, "decode") else ""
    if not text.strip() or "\ufffd" in text:
        text = str(getattr(encoder.own, "inv_vocab", {}).get(token, token))
    shown = text.strip().strip(_SPACES) or "<space>"
    return shown if shown.isprintable() else repr(shown)
