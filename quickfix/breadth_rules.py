"""Which list of names guards an edit where nobody chose one.

A list is chosen by rules on the concepts and on the text encoder, never by how long anything took or by what a cache
holds: the same model and the same concepts give the same edit. The rules take a list where pictures were looked at
(``docs/guard-by-breadth.md``): for styles and things, the short one. To read a list costs

    weights of the text encoder x tokens of all captions

multiplications, once for each text encoder. Where the whole list would cost more than :data:`MOST_WORK`, the largest
part of it that does not is taken (``concepts/names.py``), and none where no part is small enough.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import torch

from ..text.prompts import PromptTokenizer
from ..text.rows import FILL
from .breadth import WIDEST
from .concepts.names import BREADTH_CHOICES, NO_BREADTH, SHORT, SHORTER, NameList, name_list
from .concepts.settings import EditSettings
from .encoder.towers import Tower
from .measure.known import unknown_names

AUTO_BREADTH = "auto"
"""Stands for the list of :func:`default_breadth`."""
MOST_WORK = 5e14
"""Multiplications that a list may cost: about half a minute at 30 million million operations in a second, of which a
multiplication and its addition are two."""
# Every so many-th name of the list tells how long captions are.
_SAMPLED = 8
# Parts of a text encoder that read pictures.
_OF_PICTURES = ("visual", "vision")
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


def default_breadth(tower: Tower, tokenizer: PromptTokenizer, kinds: Collection[str], weights: int) -> DefaultBreadth:
    """The list that guards an edit of concepts of some kinds where nobody chose one.

    Args:
        tower: what is edited.
        tokenizer: cuts its prompts.
        weights: of the linear maps that each token of a prompt passes through; 0 where these are few.
    """
    unseen = sorted(_UNSEEN.intersection(kinds))
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


class Guarded(NamedTuple):
    """Settings with a list of names, and a line on why it is not the one that is taken by default; or nothing."""

    settings: EditSettings
    note: str


def guarded_by(
    settings: EditSettings,
    choice: str,
    tower: Tower,
    tokenizer: PromptTokenizer,
    kinds: Collection[str],
    encoders: Iterable[torch.nn.Module],
) -> Guarded:
    """Settings with a list of names.

    Args:
        choice: of :data:`~.concepts.names.BREADTH_CHOICES`, or :data:`AUTO_BREADTH`.
        tower: what is edited.
        tokenizer: cuts its prompts.
        kinds: of the concepts.
        encoders: the text encoders, of which a list is read.

    Raises:
        ValueError: there is no such choice.
    """
    if choice == AUTO_BREADTH:
        # The first layers of a text encoder cost little.
        weights = sum(map(linear_weights, encoders)) if tower.identity else 0
        found = default_breadth(tower, tokenizer, kinds, weights)
        return Guarded(dataclasses.replace(settings, breadth=found.list), found.text())
    if choice not in BREADTH_CHOICES:
        known = ", ".join((AUTO_BREADTH, *BREADTH_CHOICES))
        raise ValueError(f"There is no list of names {choice!r}; expected one of {known}.")
    return Guarded(dataclasses.replace(settings, breadth=BREADTH_CHOICES[choice]), "")


def linear_weights(model: torch.nn.Module) -> int:
    """How many weights the linear maps of some text encoders have, of whatever type they are stored in; without what
    reads pictures."""
    return sum(
        module.in_features * module.out_features
        for name, module in model.named_modules()
        if isinstance(getattr(module, "in_features", None), int)
        and isinstance(getattr(module, "out_features", None), int)
        and not any(part.startswith(_OF_PICTURES) for part in name.split("."))
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
