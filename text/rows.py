"""Prompts as text encoders other than CLIP read them: rows of token ids, template and padding included.

What a text's own tokens are is told by comparison, never by a tokenizer's rules: a prompt's row and the empty prompt's
have the template's beginning and end in common, and what is between them is the text's. In the same way a caption is
compared with that of the same template filled with other words, and what is between the common ends is the subject,
with a space or a mark that is glued to it. That holds for byte pairs and sentence pieces, in any script.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .prompts import PromptError, PromptTokenizer, TokenizedPrompt
from .subjects import SubjectError

FILL = -1
"""The id that fills a row up to the context: nothing is there. Ids below it are another encoder's tokens."""
PLAIN_WORDS = ("x", "quilt")
"""Words that a tokenizer glues to no mark behind them."""
_OTHER_WORDS = (*PLAIN_WORDS, "7", "*")
# Scripts whose words stand without spaces between them, or with endings glued to them.
_SPACELESS = ("CJK", "HIRAGANA", "KATAKANA", "HALFWIDTH", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")


class Row(NamedTuple):
    """The tokens of one prompt.

    Attributes:
        ids: those that states are counted by, template and padding included.
        length: how many of them are no padding.
        beside: tokens of another encoder: the states are made of them too, or theirs stand behind.
    """

    ids: tuple[int, ...]
    length: int
    beside: tuple[int, ...] = ()


class RowTokenizer(PromptTokenizer):
    """Rows of a text encoder, filled up to one length.

    Args:
        read: gives the row of a prompt.
        context_length: the longest row.
        unreadable: ids that stand for letters that the encoder has no tokens for.
        title: the encoder, in messages.
        behind: cuts prompts for a CLIP whose states stand behind the counted ones; its tokens are each row's
            :attr:`Row.beside`.
    """

    def __init__(
        self,
        read: Callable[[str], Row],
        *,
        context_length: int,
        unreadable: frozenset[int] = frozenset(),
        title: str = "The text encoder",
        behind: PromptTokenizer | None = None,
    ) -> None:
        self.pad_token = FILL
        self.behind = behind
        self.context_length = context_length
        self._read, self._unreadable, self._title = read, unreadable, title
        self._rows: dict[str, Row] = {}
        empty = self._row("")
        self._empty = empty.ids[: empty.length]
        if not self._empty:
            raise PromptError(f"{title} turns the empty prompt into no token at all; expected at least one.")

    @property
    def template_length(self) -> int:
        """How many tokens stand before a text."""
        found = self.tokenize_all(["x", "7"])
        return min(prompt.start for prompt in found)

    def word_ids_all(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """The tokens of several texts, without template and padding."""
        return [prompt.body for prompt in self.tokenize_all(texts)]

    def tokenize_all(self, texts: Sequence[str]) -> list[TokenizedPrompt]:
        """Tokenize several prompts.

        Raises:
            PromptError: a prompt longer than the context.
        """
        return [self._tokenized(text) for text in texts]

    def parts_all(self, texts: Sequence[str]) -> list[tuple[TokenizedPrompt, ...]]:
        """Each prompt as one part: these encoders read a long prompt whole."""
        return [(prompt,) for prompt in self.tokenize_all(texts)]

    def naming(self, prompts: Sequence[str], concepts: Sequence[str]) -> set[str]:
        """Those of some prompts that hold any of some concepts, as whole words, whatever the case."""
        wanted = [_plain(concept) for concept in dict.fromkeys(concepts) if concept.strip()]
        return {prompt for prompt in prompts if any(_holds(_plain(prompt), concept) for concept in wanted)}

    def spans(self, template: str, concept: str) -> tuple[range, ...]:
        """Where a concept stands in a caption made from a template: the positions of each ``{x}``, in order.

        Raises:
            SubjectError: the concept is empty, or in letters that the encoder has no tokens for.
            PromptError: a caption longer than the context.
        """
        parts = template.split("{x}")
        found = [
            self.span(concept.join(parts[:place]), concept, concept.join(parts[place:]))
            for place in range(1, len(parts))
        ]
        if not found:
            raise _nothing(concept)
        return tuple(found)

    def span(self, before: str, concept: str, after: str, words: Sequence[str] = _OTHER_WORDS) -> range:
        """Where a concept stands in a caption, given the text before it and behind it (:meth:`spans` for the errors).

        Args:
            words: the other words; of :data:`PLAIN_WORDS` alone, a mark behind the concept is not its own.
        """
        caption = self._row(before + concept + after)
        own = caption.ids[: caption.length]
        start, tail = len(own), len(own)
        for word in words:
            row = self._row(f"{before}{word}{after}")
            other = row.ids[: row.length]
            if other != own:
                start, tail = (min(pair) for pair in zip((start, tail), common_ends(own, other), strict=True))
        found = range(start, len(own) - tail)
        if not concept.strip() or not found:
            raise _nothing(concept)
        if any(own[position] in self._unreadable for position in found):
            raise SubjectError(
                f"{self._title} has no tokens for letters of {concept!r}, so that it is the same to it as other words. "
                "Write the concept in letters that it reads, such as Latin ones."
            )
        return found

    def _row(self, text: str) -> Row:
        if text not in self._rows:
            row = self._read(unicodedata.normalize("NFC", text))
            if len(row.ids) + len(row.beside) > self.context_length:
                raise PromptError(
                    f"The prompt has {len(row.ids) + len(row.beside)} tokens with its template and "
                    f"{self.context_length} are read. Shorten it: {text!r}"
                )
            self._rows[text] = row
        return self._rows[text]

    def _tokenized(self, text: str) -> TokenizedPrompt:
        row = self._row(text)
        start, tail = common_ends(row.ids[: row.length], self._empty)
        filled = (*row.ids, *(FILL - 1 - token for token in row.beside))
        ids = filled + (FILL,) * (self.context_length - len(filled))
        return TokenizedPrompt(text, ids, row.length - 1, (), start=start, stop=row.length - tail)


def tokens_of(ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """What a row of :meth:`RowTokenizer.tokenize_all` holds: its own tokens, and those of the other encoder."""
    return [token for token in ids if token > FILL], [FILL - 1 - token for token in ids if token < FILL]


def without_filling(rows: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Rows without the end at which none of them holds a token."""
    longest = max((sum(token != FILL for token in row) for row in rows), default=0)
    return [row[:longest] for row in rows]


def common_ends(one: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    """How many ids two rows have in common at the beginning, and how many of the others at the end."""
    shorter = min(len(one), len(other))
    start = next((place for place in range(shorter) if one[place] != other[place]), shorter)
    rest = shorter - start
    tail = next((place for place in range(rest) if one[-1 - place] != other[-1 - place]), rest)
    return start, tail


def aligned(source: Sequence[range], target: Sequence[range], lengths: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Positions of a source caption and those beside them in the target caption of the same template.

    What stands outside of the subjects is matched one to one, subject with subject: spread evenly where they are of
    different lengths, last token with last token.

    Args:
        source, target: the subjects of each caption, in order, as many in the one as in the other.
        lengths: the tokens of each caption.

    Returns:
        Every position of the source caption, and a position of the target caption for each.
    """
    columns: tuple[list[int], list[int]] = ([], [])

    def match(one: range, other: range) -> None:
        if not other:
            return
        for number, place in enumerate(one, 1):
            columns[0].append(place)
            columns[1].append(other[-(-number * len(other) // len(one)) - 1])

    ends = [(0, 0), *((s.stop, t.stop) for s, t in zip(source, target, strict=True))]
    starts = [*((s.start, t.start) for s, t in zip(source, target, strict=True)), lengths]
    for place, ((s, t), (s_end, t_end)) in enumerate(zip(ends, starts, strict=True)):
        match(range(s, s_end), range(t, t_end))
        if place < len(source):
            match(source[place], target[place])
    return columns


def mentions(text: str, words: str) -> tuple[range, ...]:
    """Where some words stand in a text, as characters: whatever the case, not as a part of longer words.

    Raises:
        SubjectError: the words are empty, or the text does not hold them.
    """
    if not words.strip():
        raise _nothing(words)
    pattern = r"\s+".join(re.escape(word) for word in words.split())
    found = [range(*match.span()) for match in re.finditer(pattern, text, re.IGNORECASE)]
    whole = [
        place
        for place in found
        if not _touch(text[max(0, place.start - 1) : place.start], text[place.start])
        and not _touch(text[place.stop - 1], text[place.stop : place.stop + 1])
    ]
    if not whole:
        raise SubjectError(
            f"The subject {words!r} is not among the words of the prompt {text!r}. Write it as the prompt does, in "
            "whole words."
        )
    return tuple(whole)


def _nothing(concept: str) -> SubjectError:
    return SubjectError(f"The subject {concept!r} is empty; name the words of the prompt that carry the concept.")


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold()).split())


def _holds(text: str, words: str) -> bool:
    """Whether a text holds some words, not as a part of longer ones."""
    start = text.find(words)
    while start >= 0:
        stop = start + len(words)
        if not _touch(text[start - 1 : start], words[0]) and not _touch(words[-1], text[stop : stop + 1]):
            return True
        start = text.find(words, start + 1)
    return False


def _touch(one: str, other: str) -> bool:
    """Whether two characters side by side belong to one word."""
    return all(
        character and unicodedata.category(character)[0] in "LNM" and not _spaceless(character)
        for character in (one, other)
    )


def _spaceless(character: str) -> bool:
    return unicodedata.name(character, "").startswith(_SPACELESS)
