"""Which list of names guards an edit where nobody chose one.

A list is chosen by rules on the concepts and on the text encoder, never by how long anything took or by what a cache
holds: the same model and the same concepts give the same edit. The rules take a list where pictures were looked at
(``docs/guard-by-breadth.md``): for styles and things, the short one. To read a list costs

    weights of the text encoder x tokens of all captions

multiplications, once for each text encoder. Where the whole list would cost more than :data:`MOST_WORK`, the largest
part of it that does not is taken (``concepts/names.py``), and none where no part is small enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..text.prompts import PromptTokenizer
from ..text.rows import FILL
from .breadth import WIDEST
from .concepts.concept import ConceptEdit
from .concepts.names import NO_BREADTH, SHORT, SHORTER, NameList, name_list
from .encoder.towers import Tower
from .measure.known import unknown_names

MOST_WORK = 5e14
"""Multiplications that a list may cost: about half a minute at 30 million million operations in a second, of which a
multiplication and its addition are two."""
# Every so many-th name of the list tells how long captions are.
_SAMPLED = 8
# Kinds of concepts of which nobody looked at pictures of an edit that a list guards.
_UNSEEN = frozenset({"fact"})


class DefaultBreadth(NamedTuple):
    """A list of names, and why it is not the whole short one.

    Attributes:
        list: of :data:`~.concepts.names.BREADTHS`; "" for none.
        reason: a clause; empty where the list is the whole short one.
    """

    list: str
    reason: str = ""

    def text(self) -> str:
        """A line for a report; nothing where there is nothing to say."""
        if not self.reason:
            return ""
        if not self.list:
            return f"names: no list of names guards the edit, since {self.reason}\n"
        return f"names: {self.list} guards the edit, a part of {SHORT}, since {self.reason}\n"


def default_breadth(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], weights: int
) -> DefaultBreadth:
    """The list that guards an edit of some concepts where nobody chose one.

    Args:
        tower: what is edited.
        tokenizer: cuts its prompts.
        weights: of the linear maps that each token of a prompt passes through; 0 where these are few.
    """
    unseen = sorted({concept.kind for concept in concepts} & _UNSEEN)
    if unseen:
        return DefaultBreadth(
            NO_BREADTH, f"nobody has looked yet at what a list does to concepts of the kind {unseen[0]}"
        )
    if tower.width > WIDEST:
        return DefaultBreadth(
            NO_BREADTH, f"this model's text is read {tower.width} wide, and lists guard up to {WIDEST}"
        )
    whole = name_list(SHORT)
    sample = [caption.text for own in whole.captions[::_SAMPLED] for caption in own]
    if len(unknown_names(tower, tokenizer, sample)) == len(sample):
        return DefaultBreadth(NO_BREADTH, f"this text encoder knows none of the names of {SHORT}")
    each = weights * _tokens(tower, tokenizer, sample)
    if each * _captions(whole) <= MOST_WORK:
        return DefaultBreadth(SHORT)
    for name in SHORTER:
        if each * _captions(name_list(name)) <= MOST_WORK:
            return DefaultBreadth(name, "all of it would take this text encoder long to read; breadth short takes all")
    return DefaultBreadth(
        NO_BREADTH, "even a part of it would take this text encoder long to read; breadth short takes all of it"
    )


def _captions(listed: NameList) -> int:
    return sum(map(len, listed.captions))


def _tokens(tower: Tower, tokenizer: PromptTokenizer, texts: Sequence[str]) -> float:
    """Positions that the text encoder runs for a caption, the mean over some."""
    prompts = tokenizer.tokenize_all(list(texts))
    if tower.shortens:
        return sum(prompt.eos + 1 for prompt in prompts) / len(prompts)
    if tower.whole:
        return sum(sum(token > FILL for token in prompt.ids) for prompt in prompts) / len(prompts)
    return float(tower.context_length)
