"""What a search for lambda or for a target looks at: a text encoder, or the text states that an image model reads."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from ....quickfix import EditSettings, Tower, TowerError, doors_settings, way_of
from ....text.prompts import PromptTokenizer
from ..objects import Clip, Model
from .image_model import open_image_model
from .text_encoder import open_text_encoder
from .text_states import open_text_states

# Text states of more dimensions would take hours and tens of GB: a search decomposes and multiplies square matrices.
_WIDEST = 6144


class Searched(NamedTuple):
    """Where is searched, how an edit there is made, and a line on it."""

    tower: Tower
    tokenizer: PromptTokenizer
    settings: EditSettings
    note: str


def open_searched(
    clip: Clip, model: Model | None, kind: str, positions: str | None, settings: EditSettings
) -> Searched:
    """What is searched: the text encoder of the CLIP, or, with a MODEL, the text states that its doors read.

    Args:
        kind: of the concepts.
        positions: those that were chosen, or None for what Remove Concept takes.
        settings: of an edit of the text encoder; of an edit of doors, its layer counts alone.

    Raises:
        DoorError: the image model is of no family whose doors are known.
        UnsupportedStatesError, UnsupportedEncoderError: the CLIP does not belong to it, or is of another kind.
        TowerError: the text states have too many dimensions for a search.
    """
    if model is None:
        encoder = open_text_encoder(clip)
        return Searched(encoder.tower, encoder.tokenizer, settings, "")
    family = open_image_model(model).family
    states = open_text_states(clip, family, model)
    if states.tower.width > _WIDEST:
        raise TowerError(
            f"{family.title} reads text states of {states.tower.width} dimensions; a search takes up to {_WIDEST}. "
            "Leave lambda at 0 in Remove Concept, and take a plain word of the concept's kind as its target."
        )
    found = doors_settings(family, positions) if positions else way_of(family, kind, "image model").settings
    note = f"looked at: the image model ({family.title}), where its text enters; positions: {found.positions}; "
    note += "no list of names (breadth)\n"
    return Searched(states.tower, states.tokenizer, dataclasses.replace(found, layer=settings.layer), note)
