"""Ledgers of edits that were changed lately, so that a second change costs milliseconds.

A ledger belongs to one edit and one text encoder. Neither is kept alive: with either of them its ledger goes.
"""

from __future__ import annotations

import dataclasses
import weakref

import torch

from ....quickfix import Ledger, WeightEdit
from ..objects import Clip
from ..progress import progress_bar
from .text_encoder import TextEncoder

# Ledgers of CLIP-L are about 40 MB each.
_MOST = 4
# Of longer edits no ledger is made: to sum each concept by itself takes longer than to compute all of them anew.
MOST_CONCEPTS = 16
_KEPT: dict[tuple[int, int, torch.device], tuple[Ledger, weakref.ref, weakref.ref]] = {}


def ledger_of(clip: Clip, encoder: TextEncoder, edit: WeightEdit) -> Ledger:
    """The ledger of an edit on a CLIP: one that was kept, or made anew from the edit's concepts and settings.

    Raises:
        TowerError: the edit was made for another kind of text encoder.
        PromptError, SubjectError: see :meth:`Ledger.of`.
    """
    kept = _KEPT.get(_key(clip, encoder, edit))
    if kept is not None:
        # Base weights are read through the connected CLIP: an older one's may have been patched in place since.
        return dataclasses.replace(kept[0], tower=encoder.tower, tokenizer=encoder.tokenizer)
    ledger = Ledger.of_edit(encoder.tower, encoder.tokenizer, edit, progress=progress_bar())
    keep_ledger(clip, encoder, edit, ledger)
    return ledger


def keep_ledger(clip: Clip, encoder: TextEncoder, edit: WeightEdit, ledger: Ledger) -> None:
    """Keep the ledger of an edit for a while."""
    key = _key(clip, encoder, edit)
    _KEPT.pop(key, None)
    of_edit, of_clip = (weakref.ref(one, lambda _: _KEPT.pop(key, None)) for one in (edit, clip.cond_stage_model))
    _KEPT[key] = ledger, of_edit, of_clip
    while len(_KEPT) > _MOST:
        del _KEPT[next(iter(_KEPT))]


def _key(clip: Clip, encoder: TextEncoder, edit: WeightEdit) -> tuple[int, int, torch.device]:
    """An id is that of a living object: its end takes the entry away."""
    return id(edit), id(clip.cond_stage_model), encoder.tower.device
