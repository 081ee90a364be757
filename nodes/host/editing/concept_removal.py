"""Removing concepts from a MODEL and its CLIP, by the best way that the model has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ....families.doors import CONDITIONING
from ....quickfix import (
    DOORS,
    WAYS,
    ConceptEdit,
    EditReport,
    EditSettings,
    WeightEdit,
    common_kind,
    compute_edit,
    doors_settings,
    edit_doors,
    kinds_of,
    prompts_of_text,
    way_of,
)
from ....quickfix.edit import report_at
from ....text.prompts import PromptTokenizer
from ....text.rows import RowTokenizer
from ..breadth import guarded_by_names, saying
from ..objects import Clip, Model
from .image_model import ImageModel, open_image_model, patch_doors, stored_door_report
from .text_encoder import apply_edit, open_text_encoder, stored_report
from .text_states import TextStates, open_text_states

__all__ = ["DOOR_CHOICES", "WAYS", "Removed", "edit_doors_of", "remove_concept"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Removed:
    """What comes out: the patched MODEL and CLIP, the edit, its report at the strength, and a line on the way."""

    model: Model
    clip: Clip
    edit: WeightEdit
    report: EditReport
    note: str


@dataclass(frozen=True)
class DoorChoice:
    """Which doors are edited, and how.

    Attributes:
        kinds: of doors; None: those that the family edits by default.
        names: shell patterns of doors; None for all.
    """

    kinds: tuple[str, ...] | None = None
    names: str | None = None


def remove_concept(
    objects: tuple[Model, Clip],
    concepts: Sequence[ConceptEdit],
    way: str,
    lam: float,
    preserve: tuple[str, str, str],
    strength: float,
    *,
    progress: Progress | None = None,
) -> Removed:
    """Edit some concepts by a way of :data:`WAYS`.

    Args:
        objects: the MODEL and the CLIP.
        lam: 0 for the way's own.
        preserve: prompts to preserve, one on each line, how ("soft" or "hard"), and a list of names, as
            :func:`~.quickfix.breadth_rules.guarded_by` knows it.

    Raises:
        DoorError, WayError: the image model is of no known family, or does not have the way.
        UnsupportedStatesError, UnsupportedEncoderError: the CLIP is of another kind.
        PromptError, HeldError, BreadthError: see :func:`compute_edit`.
    """
    model, clip = objects
    image_model = open_image_model(model)
    chosen = way_of(image_model.family, common_kind(concepts), way)
    settings = dataclasses.replace(chosen.settings, lam=lam or chosen.settings.lam)
    settings = settings.keeping(prompts_of_text(preserve[0]), preserve[1])
    note = chosen.text(image_model.family) + "\n"
    if chosen.by_doors:
        states = open_text_states(clip, image_model.family, model)
        settings, said = guarded_by_names(
            settings, preserve[2], (states.tower, states.tokenizer), kinds_of(concepts), clip
        )
        removed = edit_image_model(
            objects, image_model, states, concepts, settings, DoorChoice(), strength, progress=progress
        )
        return dataclasses.replace(removed, note=note + said + how_read(states.tokenizer, concepts))
    encoder = open_text_encoder(clip)
    settings, said = guarded_by_names(
        settings, preserve[2], (encoder.tower, encoder.tokenizer), kinds_of(concepts), clip
    )
    edit = compute_edit(encoder.tower, encoder.tokenizer, concepts, settings, progress=saying(progress))
    report = stored_report(encoder, edit, strength)
    return Removed(model.clone(), apply_edit(clip, encoder, edit, strength), edit, report, note + said)


# What nodes call kinds of doors.
DOOR_CHOICES: dict[str, tuple[str, ...] | None] = {
    "default": None,
    "values": ("value",),
    "keys and values": ("value", "key"),
    "entrance": ("entrance",),
    "pooled": ("pooled",),
    "conditioning alone": (),
}


def edit_doors_of(
    objects: tuple[Model, Clip],
    concepts: Sequence[ConceptEdit],
    doors: tuple[str, str],
    solve: tuple[str, float],
    preserve: tuple[str, str, str],
    strength: float,
    *,
    progress: Progress | None = None,
) -> Removed:
    """Edit some concepts at chosen doors.

    Args:
        doors: a name of :data:`DOOR_CHOICES`, and shell patterns of names.
        solve: positions, and lambda (0 for the default).
        preserve: as for :func:`remove_concept`, where the errors are, too.
    """
    kinds = DOOR_CHOICES[doors[0]]
    image_model = open_image_model(objects[0], conditioning=kinds == ())
    states = open_text_states(objects[1], image_model.family, objects[0])
    family = image_model.family
    if family.name == CONDITIONING.name:
        family = dataclasses.replace(family, attention="causal" if states.tower.causal else "bidirectional")
    settings = doors_settings(family, solve[0])
    settings = dataclasses.replace(settings, lam=solve[1] or DOORS.lam)
    settings = settings.keeping(prompts_of_text(preserve[0]), preserve[1])
    reader, clip = (states.tower, states.tokenizer), objects[1]
    settings, said = guarded_by_names(settings, preserve[2], reader, kinds_of(concepts), clip)
    names = doors[1].strip()
    choice = DoorChoice(kinds, None if names in ("", "*") else names)
    removed = edit_image_model(objects, image_model, states, concepts, settings, choice, strength, progress=progress)
    note = f"edited: the image model ({image_model.family.title})\n"
    if kinds == ():
        note = "edited: no weight; give the edit and an encoded prompt to Apply Edit to Conditioning\n"
    if settings.positions != solve[0]:
        note += f"positions: {settings.positions}, since every token of this model's text reads all others\n"
    return dataclasses.replace(removed, note=note + said + how_read(states.tokenizer, concepts))


def how_read(tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit]) -> str:
    """A line on concepts whose other spelling, with or without capitals, this text encoder reads as another name;
    nothing where there are none, as for CLIP."""
    if not isinstance(tokenizer, RowTokenizer):
        return ""
    names = {concept.source for concept in concepts}
    others = [
        other
        for name in dict.fromkeys(concept.source for concept in concepts)
        for other in (name.lower(), name.title())
        if other not in names and tokenizer.word_ids(other) != tokenizer.word_ids(name)
    ]
    if not others:
        return ""
    told = ", ".join(others[:3]) + (" and others" if len(others) > 3 else "")
    return f"not edited: {told}; this text encoder reads capitals as other tokens. Name them as concepts too.\n"


def edit_image_model(
    objects: tuple[Model, Clip],
    image_model: ImageModel,
    states: TextStates,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    choice: DoorChoice,
    strength: float,
    *,
    progress: Progress | None = None,
) -> Removed:
    """Edit some concepts at doors of the image model.

    Args:
        objects: the MODEL and the CLIP.
        image_model, states: opened of them.

    Raises:
        DoorError, PromptError, HeldError: see :func:`edit_doors`.
    """
    model, clip = objects
    alone = choice.kinds == ()
    doors = () if alone else image_model.doors(kinds=choice.kinds, names=choice.names)
    edit = edit_doors(
        states.tower,
        states.tokenizer,
        concepts,
        settings,
        doors,
        image_model.read,
        read_pooled=states.pooled if image_model.family.pooled else None,
        progress=saying(progress),
    )
    report = report_at(states.tower, states.tokenizer, edit, strength)
    report = stored_door_report(image_model, edit, report, strength)
    return Removed(patch_doors(model, edit, strength), clip.clone(), edit, report, "")
