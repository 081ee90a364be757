"""Ledgers of edits that were changed lately, so that a second change costs milliseconds.

A ledger belongs to one edit and to what gives its keys: a text encoder, or the text states of a model with the patches
that these are read with. Neither is kept alive: with either of them its ledger goes.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from ....quickfix import Changes, Ledger, Tower, WeightEdit, compute_edit
from ....text.prompts import PromptTokenizer
from ..breadth import saying
from ..objects import Patcher
from ..progress import progress_bar

# Ledgers that are kept, and the bytes that they may take together. One of CLIP-L is about 40 MB, of SDXL's text states
# 200 MB; the last one is kept whatever it takes.
_MOST, _BYTES = 4, 2**28
# Of longer edits, and of wider keys, no ledger is made: it would cost more than to compute all of the edit anew.
MOST_CONCEPTS, _WIDEST = 16, 2048


class _Kept(NamedTuple):
    """A ledger without what gives its keys, which may hold whole models; the width of these, and what it goes with."""

    ledger: Ledger
    width: int
    owners: tuple[weakref.ref, ...]


_KEPT: dict[tuple[Any, ...], _Kept] = {}


@dataclass(frozen=True)
class State:
    """What of ComfyUI's objects keys depend on: networks, and what they are patched with.

    Attributes:
        models: the networks.
        marks: the patches and options that they are read with.
    """

    models: tuple[Any, ...]
    marks: tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """What gives the keys of an edit."""

    tower: Tower
    tokenizer: PromptTokenizer
    state: State


def state_of(*patchers: Patcher, options: tuple[Any, ...] = ()) -> State:
    """The state of some models.

    Args:
        options: other values that change the keys, such as the clip skip.
    """
    marks = tuple(getattr(patcher, "patches_uuid", None) for patcher in patchers)
    return State(tuple(patcher.model for patcher in patchers), (*marks, *options))


def changed_edit(
    source: Source, edit: WeightEdit, changes: Changes, finish: Callable[[WeightEdit], WeightEdit]
) -> WeightEdit:
    """An edit with other concepts, from its ledger: one that was kept, or made anew.

    Args:
        finish: makes of the solved edit what the node gives away, for which the ledger is kept.

    Raises:
        TowerError: the edit was made for another kind of text encoder.
        LedgerError: changes of a concept that the edit does not have, or that leave none.
        PromptError, SubjectError: see :meth:`Ledger.of`.
    """
    tower, tokenizer = source.tower, source.tokenizer
    if len(edit.concepts) > MOST_CONCEPTS or tower.width > _WIDEST:
        concepts = changes.made_on(edit.concepts, tokenizer)
        return finish(compute_edit(tower, tokenizer, concepts, edit.settings, progress=saying(progress_bar())))
    ledger = changes.apply(_ledger_of(source, edit))
    changed = finish(ledger.solve(progress=saying(progress_bar())))
    _keep(source, changed, ledger)
    return changed


def _ledger_of(source: Source, edit: WeightEdit) -> Ledger:
    kept = _KEPT.get(_key(source, edit))
    if kept is not None:
        # Weights are read through the connected objects: older ones may have been patched in place since.
        return dataclasses.replace(kept.ledger, tower=source.tower, tokenizer=source.tokenizer)
    ledger = Ledger.of_edit(source.tower, source.tokenizer, edit, progress=progress_bar())
    _keep(source, edit, ledger)
    return ledger


def _keep(source: Source, edit: WeightEdit, ledger: Ledger) -> None:
    """Keep the ledger of an edit for a while."""
    key = _key(source, edit)
    _KEPT.pop(key, None)
    owners = tuple(weakref.ref(one, lambda _: _KEPT.pop(key, None)) for one in (edit, *source.state.models))
    bare = dataclasses.replace(ledger, tower=cast(Tower, None), tokenizer=cast(PromptTokenizer, None))
    _KEPT[key] = _Kept(bare, source.tower.width, owners)
    while len(_KEPT) > 1 and (len(_KEPT) > _MOST or sum(map(_bytes, _KEPT.values())) > _BYTES):
        del _KEPT[next(iter(_KEPT))]


def _bytes(kept: _Kept) -> int:
    """About what a ledger takes: three sums in two integers of eight bytes each."""
    return 6 * 8 * kept.width**2


def _key(source: Source, edit: WeightEdit) -> tuple[Any, ...]:
    """An id is that of a living object: its end takes the entry away."""
    return id(edit), tuple(map(id, source.state.models)), source.tower.device, source.state.marks
