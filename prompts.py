"""Prompts as CLIP reads them: caption templates, tokens, padding, and where a subject stands.

CLIP's tokenizer lower-cases a text, cuts it into words and the words into byte pairs; the last byte pair of a word ends
in ``</w>``. A prompt becomes BOS, its tokens, EOS and padding up to the context length (77). The encoder is causal: the
*last subject token* is the first that has read the whole subject.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

KINDS = ("style", "object", "fact", "custom")
PUBLISHED_TEMPLATES = ("{x}", "A photo of {x}", "An image of {x}", "A picture of {x}")
_DEFAULT_TARGETS = {"style": "painting"}
_END_OF_WORD = "</w>"


class PromptError(ValueError):
    """A prompt, template or concept that cannot be used."""


class SubjectError(PromptError):
    """A subject that a prompt does not contain, or not whole."""


def default_templates(kind: str) -> tuple[str, ...]:
    """Caption templates of a kind of concept: the four published ones.

    Raises:
        PromptError: unknown kind, or "custom", which brings its own templates.
    """
    if kind not in KINDS:
        raise PromptError(f"Unknown kind of concept {kind!r}; expected one of {', '.join(KINDS)}.")
    if kind == "custom":
        raise PromptError('Kind "custom" needs its own caption templates, one on each line, with {x} for the concept.')
    return PUBLISHED_TEMPLATES


def default_target(kind: str) -> str | None:
    """What a concept of this kind becomes when nothing is said: "painting" for a style, nothing sensible otherwise."""
    return _DEFAULT_TARGETS.get(kind)


def expand(templates: Sequence[str], concept: str) -> tuple[str, ...]:
    """Put a concept into each template in place of ``{x}``.

    Raises:
        PromptError: no templates, or one without ``{x}``.
    """
    if not templates:
        raise PromptError("No caption templates given; expected at least one, such as {x}.")
    for template in templates:
        if "{x}" not in template:
            raise PromptError(f"The template {template!r} has no {{x}}; write {{x}} where the concept stands.")
    return tuple(template.replace("{x}", concept) for template in templates)


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the encoder sees it.

    Attributes:
        text: the prompt.
        ids: token ids with BOS, EOS and padding, as long as the context.
        eos: index of the EOS that ends the text.
        words: for each token after BOS, those of ``cut`` included, whether a word of the text ends with it.
        cut: token ids that did not fit into the context.
    """

    text: str
    ids: tuple[int, ...]
    eos: int
    words: tuple[bool, ...]
    cut: tuple[int, ...] = ()

    @property
    def body(self) -> tuple[int, ...]:
        """The ids between BOS and EOS."""
        return self.ids[1 : self.eos]


class PromptTokenizer:
    """A CLIP tokenizer with the padding of one text encoder.

    Args:
        tokenizer: transformers' ``CLIPTokenizer``, or anything that is called like it and has
            ``convert_ids_to_tokens``.
        pad_token: 49407 (EOS) for Stable Diffusion 1.x, 0 for Stable Diffusion 2.x.
        context_length: positions of the encoder.
    """

    def __init__(self, tokenizer: Any, *, pad_token: int, context_length: int = 77) -> None:
        self._tokenizer = tokenizer
        self.pad_token = pad_token
        self.context_length = context_length
        empty = list(tokenizer("")["input_ids"])
        if len(empty) != 2:
            raise PromptError(
                f"The tokenizer turns the empty prompt into {empty}; expected BOS and EOS. Pass a CLIP tokenizer."
            )
        self.bos, self.eos = empty

    def word_ids(self, text: str) -> tuple[int, ...]:
        """The token ids of a text alone, without BOS, EOS and padding."""
        return self.word_ids_all([text])[0]

    def word_ids_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """:meth:`word_ids` of several texts at once."""
        if not texts:
            return []
        rows = self._tokenizer([unicodedata.normalize("NFC", text) for text in texts])["input_ids"]
        return [tuple(row[1:-1]) for row in rows]

    def tokenize(self, text: str) -> TokenizedPrompt:
        """Tokenize one prompt; what does not fit is recorded in ``cut``, never an error here."""
        return self.tokenize_all([text])[0]

    def tokenize_all(self, texts: Sequence[str]) -> list[TokenizedPrompt]:
        """Tokenize several prompts at once."""
        return [self._pad(text, body) for text, body in zip(texts, self.word_ids_all(texts), strict=True)]

    def _pad(self, text: str, body: tuple[int, ...]) -> TokenizedPrompt:
        room = self.context_length - 2
        kept, cut = body[:room], body[room:]
        pieces = self._tokenizer.convert_ids_to_tokens(list(body))
        padding = (self.pad_token,) * (room - len(kept))
        return TokenizedPrompt(
            text=text,
            ids=(self.bos, *kept, self.eos, *padding),
            eos=len(kept) + 1,
            words=_word_ends(text, pieces),
            cut=cut,
        )


def _word_ends(text: str, pieces: Sequence[str]) -> tuple[bool, ...]:
    """Whether a word ends with each piece.

    CLIP ends a word after every digit and every letter run ("r2d2" is four of them); a reader's word goes on as long as
    letters and digits touch. Whether they touch, only the text says: a piece has one character for each of its bytes.
    """
    ends = [piece.endswith(_END_OF_WORD) or piece.startswith("<|") for piece in pieces]
    if not any(character.isnumeric() or character == "'" for character in text):
        return tuple(ends)
    touching: list[bool] = []
    for word in unicodedata.normalize("NFC", text).lower().split():
        for here, after in zip(word, word[1:] + " ", strict=True):
            touching += [True] * (len(here.encode()) - 1) + [here.isalnum() and after.isalnum()]
    lengths = [len(piece.removesuffix(_END_OF_WORD)) for piece in pieces]
    if sum(lengths) != len(touching):
        return tuple(ends)
    lasts = (total - 1 for total in accumulate(lengths))
    return tuple(end and not touching[last] for end, last in zip(ends, lasts, strict=True))


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
    wanted = set(tokenizer.word_ids_all(list(dict.fromkeys(concepts))))
    sizes = {len(words) for words in wanted}
    return {
        prompt.text
        for prompt in tokenizer.tokenize_all(list(prompts))
        if any(words in wanted for words in _whole_words(prompt, sizes))
    }


def _whole_words(prompt: TokenizedPrompt, sizes: set[int]) -> Iterator[tuple[int, ...]]:
    """The runs of whole words of a prompt, as far as it is read, that have one of some sizes in tokens."""
    ends = [0, *(place + 1 for place in range(len(prompt.body)) if prompt.words[place])]
    return (prompt.body[start:stop] for start in ends for stop in ends if stop - start in sizes)


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
