"""Prompts as CLIP reads them: caption templates, tokens, padding, and where a subject stands.

CLIP's tokenizer lower-cases a text, cuts it into words and the words into byte pairs; the last byte pair of a word ends
in ``</w>``. A prompt becomes BOS, its tokens, EOS and padding up to the context length (77). The encoder is causal: the
*last subject token* is the first that has read the whole subject.
"""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

_END_OF_WORD = "</w>"


class PromptError(ValueError):
    """A prompt, template or concept that cannot be used."""


@dataclass(frozen=True)
class TokenizedPrompt:
    """A prompt as the encoder sees it.

    Attributes:
        text: the prompt.
        ids: token ids with BOS, EOS and padding, as long as the context.
        eos: index of the EOS that ends the text.
        words: for each token after BOS, those of ``cut`` included, whether a word of the text ends with it.
        cut: token ids that did not fit into the context.
        start: index of the first token of the text.
        stop: index behind its last one; None: the EOS.
    """

    text: str
    ids: tuple[int, ...]
    eos: int
    words: tuple[bool, ...]
    cut: tuple[int, ...] = ()
    start: int = 1
    stop: int | None = None

    @property
    def body(self) -> tuple[int, ...]:
        """The ids of the text: for CLIP, those between BOS and EOS."""
        return self.ids[self.start : self.eos if self.stop is None else self.stop]

    @property
    def last_word(self) -> int:
        """Index of the last token of the text; of an empty one, of what stands before it."""
        return max(0, (self.eos if self.stop is None else self.stop) - 1)


class PromptTokenizer:
    """A CLIP tokenizer with the padding of one text encoder.

    Args:
        tokenizer: transformers' ``CLIPTokenizer``, or anything that is called like it and has
            ``convert_ids_to_tokens``, and ``get_added_vocab`` where it has added tokens.
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
        # Tokens of their own, as textual inversion brings them: each is a word.
        self._added = frozenset(getattr(tokenizer, "get_added_vocab", dict)().values())

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

    def parts_all(self, texts: Sequence[str]) -> list[tuple[TokenizedPrompt, ...]]:
        """Each prompt as image models read one that is longer than the context: in parts, each a prompt of its own."""
        room = self.context_length - 2
        found = []
        for text, body in zip(texts, self.word_ids_all(texts), strict=True):
            words = self._word_ends(text, body)
            starts = range(0, max(1, len(body)), room)
            found.append(tuple(self._padded(text, body[at : at + room], words[at : at + room]) for at in starts))
        return found

    def naming(self, prompts: Sequence[str], concepts: Sequence[str]) -> set[str]:
        """Those of some prompts that hold any of some concepts, as whole words."""
        wanted = set(self.word_ids_all(list(dict.fromkeys(concepts))))
        sizes = {len(words) for words in wanted}
        return {
            prompt.text
            for prompt in self.tokenize_all(list(prompts))
            if any(words in wanted for words in _whole_words(prompt, sizes))
        }

    def _pad(self, text: str, body: tuple[int, ...]) -> TokenizedPrompt:
        room = self.context_length - 2
        whole = self._padded(text, body[:room], self._word_ends(text, body))
        return dataclasses.replace(whole, cut=body[room:])

    def _padded(self, text: str, kept: tuple[int, ...], words: tuple[bool, ...]) -> TokenizedPrompt:
        padding = (self.pad_token,) * (self.context_length - 2 - len(kept))
        return TokenizedPrompt(text, (self.bos, *kept, self.eos, *padding), len(kept) + 1, words)

    def _word_ends(self, text: str, body: Sequence[int]) -> tuple[bool, ...]:
        ends = _word_ends(text, self._tokenizer.convert_ids_to_tokens(list(body)))
        return tuple(end or token in self._added for end, token in zip(ends, body, strict=True))


def _whole_words(prompt: TokenizedPrompt, sizes: set[int]) -> Iterator[tuple[int, ...]]:
    """The runs of whole words of a prompt, what was cut off among them, that have one of some sizes in tokens."""
    whole = (*prompt.body, *prompt.cut)
    ends = [0, *(place + 1 for place in range(len(whole)) if prompt.words[place])]
    return (whole[start:stop] for start in ends for stop in ends if stop - start in sizes)


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
