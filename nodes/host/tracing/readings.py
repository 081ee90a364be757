"""A prompt as a text encoder of ComfyUI's CLIP is given it."""

from __future__ import annotations

import unicodedata
from typing import Any

from ....text.prompts import PromptError, PromptTokenizer
from ....tracing.runs.readings import Reading, read_row, shown_token
from ..editing.row_states import plain_ids, unreadable_tokens
from ..objects import Clip
from ..prompt_parts import PromptPart, cut_prompt, find_in_parts, tokenize_naming
from .encoders import TracedEncoder


def read_prompt(
    clip: Clip, encoder: TracedEncoder, prompt: str, subject: str, replaced_by: str = ""
) -> Reading[TracedEncoder]:
    """A prompt as an encoder is given it, and its subject.

    Raises:
        PromptError: "embedding:" without a name, or in an encoder other than CLIP; a prompt too long.
        SubjectError: the subject is not in the prompt, in several of its parts, or over the seam of two.
    """
    read = _read_parts if encoder.stack.shape == "clip" else _read_row
    return read(clip, encoder, prompt, subject, replaced_by.strip())


def _read_parts(
    clip: Clip, encoder: TracedEncoder, prompt: str, subject: str, replaced_by: str
) -> Reading[TracedEncoder]:
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


def _read_row(
    clip: Clip, encoder: TracedEncoder, prompt: str, subject: str, replaced_by: str
) -> Reading[TracedEncoder]:
    text, words = (unicodedata.normalize("NFC", one) for one in (prompt, subject))
    return read_row(
        encoder,
        text,
        words,
        replaced_by,
        lambda one: _row(clip, encoder, one),
        unreadable_tokens(encoder.own),
        lambda token: _label(encoder, token),
    )


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


def _label(encoder: TracedEncoder, token: int) -> str:
    inner = encoder.own.tokenizer
    text = inner.decode([token]) if hasattr(inner, "decode") else ""
    return shown_token(text, lambda: getattr(encoder.own, "inv_vocab", {}).get(token, token))
