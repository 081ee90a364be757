"""Where a subject stands in a prompt, by whole words, and the token positions that are named after it."""

from __future__ import annotations

from collections.abc import Sequence

from .prompts import PromptError, PromptTokenizer, TokenizedPrompt

PLACES = ("last subject token", "subject", "subject and later", "later tokens", "end of text", "padding", "all")
EARLIER = "earlier tokens"
"""The place that encoders have beside :data:`PLACES` whose tokens read what stands behind them."""


class SubjectError(PromptError):
    """A subject that a prompt does not contain, or not whole."""


def _occurrences(ids: Sequence[int], ends_word: Sequence[bool], wanted: Sequence[int]) -> list[int]:
    size = len(wanted)
    return [
        start
        for start in range(len(ids) - size + 1)
        if tuple(ids[start : start + size]) == tuple(wanted)
        and (start == 0 or ends_word[start - 1])
        and ends_word[start + size - 1]
    ]


def naming_any(prompts: Sequence[str], concepts: Sequence[str], tokenizer: PromptTokenizer) -> set[str]:
    """Those of some prompts that hold any of some concepts, as whole words."""
    return tokenizer.naming(prompts, concepts)


def find_subject(
    prompt: TokenizedPrompt, subject: str, tokenizer: PromptTokenizer, wanted: tuple[int, ...] | None = None
) -> tuple[range, ...]:
    """Where the subject stands, by whole words, whatever its case and the punctuation around it.

    Args:
        wanted: the subject's :meth:`~PromptTokenizer.word_ids`, where they are at hand.

    Returns:
        The token positions of each occurrence, in order, as ranges of indices into ``prompt.ids``; they may overlap.

    Raises:
        SubjectError: the subject is empty, does not occur, or is cut off at the context length.
    """
    wanted = tokenizer.word_ids(subject) if wanted is None else wanted
    if not wanted:
        raise SubjectError(f"The subject {subject!r} is empty; name the words of the prompt that carry the concept.")
    if tokenizer.bos in wanted or tokenizer.eos in wanted:
        raise SubjectError(f"The subject {subject!r} holds a marker of the tokenizer's own; name plain words.")
    starts = _occurrences(prompt.body, prompt.words, wanted)
    if starts:
        return tuple(range(start + 1, start + 1 + len(wanted)) for start in starts)
    whole = (*prompt.body, *prompt.cut)
    if prompt.cut and _occurrences(whole, prompt.words, wanted):
        raise SubjectError(
            f"The subject {subject!r} is cut off: the prompt has {len(whole)} tokens and the text encoder reads "
            f"{tokenizer.context_length - 2}. Move the subject to the front or shorten the prompt: {prompt.text!r}"
        )
    raise SubjectError(
        f"The subject {subject!r} is not among the words of the prompt {prompt.text!r}. Write it as the prompt does, "
        "in whole words."
    )


def last_subject_token(prompt: TokenizedPrompt, subject: str, tokenizer: PromptTokenizer) -> int:
    """Index of the last token of the subject's last occurrence (see :func:`find_subject` for the errors)."""
    return find_subject(prompt, subject, tokenizer)[-1][-1]


def places(tokens: TokenizedPrompt, subject: range, *, causal: bool = True) -> dict[str, tuple[int, ...] | None]:
    """The token positions of each of :data:`PLACES`, and :data:`EARLIER`; empty where a prompt has none.

    The end of the text is its EOS, or what a chat template puts behind it. Earlier tokens, those of the text and of a
    template before the subject, have read the subject only where the encoder is not causal.

    Args:
        subject: the subject's positions. None stands for every position.
        causal: whether a token's state depends on nothing that stands behind it.
    """
    eos, length = tokens.eos, len(tokens.ids)
    stop = eos if tokens.stop is None else tokens.stop
    return {
        "last subject token": (subject[-1],),
        "subject": tuple(subject),
        "subject and later": tuple(range(subject.start, length)),
        "later tokens": tuple(range(subject.stop, stop)),
        "end of text": tuple(range(stop, min(eos + 1, length))),
        "padding": tuple(range(eos + 1, length)),
        "all": None,
        EARLIER: () if causal else tuple(range(subject.start)),
    }
