"""Edits of doors that were made before, on the MODEL and CLIP that a user connects."""

from __future__ import annotations

import dataclasses

import torch

from ....families.doors import Door, DoorError, family_named
from ....quickfix import Changes, EditReport, Tower, WeightEdit, measure_edit, with_doors
from ....quickfix.edit import report_at
from ....text.prompts import PromptTokenizer
from ..objects import Clip, Model
from .image_model import ImageModel, foreign_doors_note, open_image_model, patch_doors, stored_door_report
from .ledgers import Source, changed_edit, state_of
from .text_encoder import open_edited
from .text_states import TextStates, open_text_states


def apply_stored(model: Model | None, clip: Clip, edit: WeightEdit, strength: float) -> tuple[Model, EditReport, str]:
    """An edit of doors out of a file, on a MODEL: the patched MODEL, its report there, and a note on whose it is.

    Raises:
        DoorError: no MODEL is connected, or it lacks the edit's doors.
        UnsupportedStatesError: the CLIP does not belong to it.
    """
    opened = _required(model, edit)
    assert model is not None
    states = open_text_states(clip, opened.family, model)
    measured = measure_edit(states.tower, states.tokenizer, edit, strength)
    report = stored_door_report(opened, edit, measured, strength)
    return patch_doors(model, edit, strength), report, foreign_doors_note(opened, edit)


def change_doors(
    model: Model | None, clip: Clip, edit: WeightEdit, changes: Changes, strength: float
) -> tuple[Model | None, WeightEdit, str]:
    """An edit of doors with other concepts, at the same doors: the patched MODEL, the changed edit with its report at
    the strength, and a note on whose it was. An edit of a conditioning alone needs no MODEL.

    Raises:
        DoorError: no MODEL is connected, or it lacks the edit's doors.
        UnsupportedStatesError: the CLIP does not belong to it.
        LedgerError, PromptError: see :class:`Changes`.
    """
    opened = _required(model, edit) if edit.doors else None
    family = family_named(edit.encoder)
    states = open_text_states(clip, family, model)
    read_pooled = states.pooled if edit.pooled is not None else None
    doors = tuple(update.door for update in edit.doors)

    def finish(solved: WeightEdit) -> WeightEdit:
        read = opened.read if opened is not None else _unread
        changed = with_doors(solved, states.tokenizer, doors, read, read_pooled)
        report = report_at(states.tower, states.tokenizer, changed, strength)
        if opened is not None:
            report = stored_door_report(opened, changed, report, strength)
        return dataclasses.replace(changed, report=report)

    changed = changed_edit(_source(states, clip, model), edit, changes, finish)
    note = foreign_doors_note(opened, edit) if opened is not None else ""
    patched = model if model is None else patch_doors(model, changed, strength)
    return patched, changed, note


def towers_of(
    clip: Clip, edit: WeightEdit, model: Model | None = None
) -> tuple[tuple[WeightEdit, Tower, PromptTokenizer], ...]:
    """What an edit was computed from, read through a CLIP: each text encoder that it changes with its part of the edit,
    or the text states that doors read.

    Args:
        model: needed where the image model makes other states of the text before it reads them.

    Raises:
        UnsupportedEncoderError, UnsupportedStatesError: the CLIP is of another kind of model.
        DoorError: the MODEL is of another family than the edit.
    """
    if edit.of_states:
        if model is not None:
            _require_family(open_image_model(model, conditioning=not edit.doors), edit)
        states = open_text_states(clip, family_named(edit.encoder), model)
        return ((edit, states.tower, states.tokenizer),)
    opened = zip(edit.parts, open_edited(clip, edit), strict=True)
    return tuple((part, encoder.tower, encoder.tokenizer) for part, encoder in opened)


def _required(model: Model | None, edit: WeightEdit) -> ImageModel:
    """The image model that an edit's doors belong to (DoorError where it is not there, or another)."""
    if model is None:
        raise DoorError(
            f"The edit is of an image model ({family_named(edit.encoder).title}) and no model is connected. Connect "
            "the MODEL to the input model, and give its output to the sampler."
        )
    image_model = open_image_model(model, conditioning=not edit.doors)
    _require_family(image_model, edit)
    if not image_model.has([update.door for update in edit.doors]):
        raise DoorError(
            f"The edit is of {family_named(edit.encoder).title} at {len(edit.doors)} linear maps that this "
            f"{image_model.family.title} model does not have in this shape. It was made for another kind of model."
        )
    return image_model


def _require_family(image_model: ImageModel, edit: WeightEdit) -> None:
    if image_model.family.name != edit.encoder:
        raise DoorError(
            f"The edit is of {family_named(edit.encoder).title}, and the model is {image_model.family.title}. Connect "
            "the MODEL that it was made for, or one of its kind."
        )


def _source(states: TextStates, clip: Clip, model: Model | None) -> Source:
    patchers = (clip.patcher,) if model is None else (clip.patcher, model)
    return Source(states.tower, states.tokenizer, state_of(*patchers, options=(clip.layer_idx,)))


def _unread(door: Door) -> torch.Tensor:
    raise DoorError(f"An edit of a conditioning alone has no weight {door.weight}.")
