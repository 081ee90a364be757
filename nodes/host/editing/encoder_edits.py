"""Edits of the text encoders of a CLIP: of its one, or of several that belong to one model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

from ....quickfix import Changes, ConceptEdit, EditReport, EditSettings, WeightEdit, compute_edit, measure_edit
from ..objects import Clip
from .ledgers import Source, changed_edit, state_of
from .text_encoder import TextEncoder, apply_edit, foreign_note, open_edited, open_text_encoders, stored_report

Progress = Callable[[int, int], None]


def edit_encoders(
    clip: Clip,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    choice: str,
    strength: float,
    progress: Progress,
) -> tuple[Clip, WeightEdit]:
    """Edit some concepts in one or several text encoders of a CLIP, each from its own keys.

    Args:
        choice: one of :data:`ENCODER_CHOICES`.
        progress: called with (steps done, all steps); an exception it raises ends the work.

    Returns:
        A patched clone of the CLIP, and the edit, whose reports are at the strength.

    Raises:
        UnsupportedEncoderError, QuantizedWeightError: see :func:`open_text_encoders`.
        PromptError, HeldError, TowerError: see :func:`compute_edit`.
    """
    encoders = open_text_encoders(clip, choice)
    edits = []
    for number, encoder in enumerate(encoders):
        own = _share(progress, number, len(encoders))
        edits.append(compute_edit(encoder.tower, encoder.tokenizer, concepts, settings, progress=own))
    edit = _reported(encoders, edits, strength)
    return _patched(clip, encoders, edit, strength), edit


def change_encoders(clip: Clip, edit: WeightEdit, changes: Changes, strength: float) -> tuple[Clip, WeightEdit, str]:
    """An edit of text encoders with other concepts: the patched CLIP, the changed edit, and a note on whose it was.

    Raises:
        UnsupportedEncoderError, TowerError: see :func:`open_edited`.
        LedgerError, PromptError: see :class:`Changes`.
    """
    encoders = open_edited(clip, edit)
    changed = []
    for encoder, part in zip(encoders, edit.parts, strict=True):
        source = Source(encoder.tower, encoder.tokenizer, state_of(clip.patcher))
        finish = functools.partial(_finished, encoder, strength)
        changed.append(changed_edit(source, part, changes, finish))
    joined = WeightEdit.joined(changed)
    return _patched(clip, encoders, joined, strength), joined, _foreign(encoders, edit)


def measured_encoders(clip: Clip, edit: WeightEdit, strength: float) -> tuple[Clip, tuple[EditReport, ...], str]:
    """An edit of text encoders on a CLIP: the patched CLIP, a report of each encoder, and a note on whose it is.

    Raises:
        UnsupportedEncoderError, TowerError: see :func:`open_edited`.
    """
    encoders = open_edited(clip, edit)
    measured = [
        dataclasses.replace(part, report=measure_edit(encoder.tower, encoder.tokenizer, part, strength))
        for encoder, part in zip(encoders, edit.parts, strict=True)
    ]
    reports = tuple(part.report for part in _reported(encoders, measured, strength).parts)
    return _patched(clip, encoders, edit, strength), reports, _foreign(encoders, edit)


def _share(progress: Progress, number: int, count: int) -> Progress:
    """The progress of one of several encoders."""
    return lambda done, total: progress(number * total + done, count * total)


def _finished(encoder: TextEncoder, strength: float, edit: WeightEdit) -> WeightEdit:
    return _reported([encoder], [edit], strength)


def _reported(encoders: Sequence[TextEncoder], edits: Sequence[WeightEdit], strength: float) -> WeightEdit:
    """Edits of some encoders as one, with their reports at a strength."""
    return WeightEdit.joined(
        [
            dataclasses.replace(edit, report=stored_report(encoder, edit, strength))
            for encoder, edit in zip(encoders, edits, strict=True)
        ]
    )


def _patched(clip: Clip, encoders: Sequence[TextEncoder], edit: WeightEdit, strength: float) -> Clip:
    for encoder, part in zip(encoders, edit.parts, strict=True):
        clip = apply_edit(clip, encoder, part, strength)
    return clip


def _foreign(encoders: Sequence[TextEncoder], edit: WeightEdit) -> str:
    notes = [foreign_note(encoder, part) for encoder, part in zip(encoders, edit.parts, strict=True)]
    return next(filter(None, notes), "")
