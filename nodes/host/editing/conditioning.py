"""An edit of text states, applied to a CONDITIONING."""

from __future__ import annotations

from typing import Any

from ....families.doors import family_named
from ....families.family import states_as_they_are
from ....quickfix import WeightEdit
from ..objects import Conditioning


class ConditioningError(ValueError):
    """An edit that cannot be applied to a conditioning."""


def apply_to_conditioning(conditioning: Conditioning, edit: WeightEdit, strength: float) -> Conditioning:
    """A conditioning whose text states are those that the edit gives; its pooled vector too, where the edit has a map.

    Other options stay: ranges of steps, areas, masks, ControlNets. At strength 0 the states are the same tensors.

    Raises:
        ConditioningError: the edit is of a text encoder, or of states that the image model makes of the conditioning.
        ValueError: states of another width.
    """
    if not edit.of_states:
        raise ConditioningError(
            f"The edit changes a text encoder ({edit.encoder}), and its CLIP is edited already: encode the prompt with "
            'that CLIP. For a conditioning, make the edit with Edit Image Model, or Remove Concept with the way "image '
            'model".'
        )
    family = family_named(edit.encoder)
    if family.front_of is not states_as_they_are:
        raise ConditioningError(
            f"An image model of {family.title} makes other states of the conditioning before it reads them; this edit "
            "is of those. Give the model of Edit Image Model to the sampler instead, or make the edit with the maps "
            '"conditioning alone".'
        )
    return [[edit.applied(states, strength), _pooled(options, edit, strength)] for states, options in conditioning]


def _pooled(options: dict[str, Any], edit: WeightEdit, strength: float) -> dict[str, Any]:
    pooled = options.get("pooled_output")
    if edit.pooled is None or pooled is None or not strength or pooled.shape[-1] != edit.pooled.down.shape[1]:
        return dict(options)
    return {**options, "pooled_output": edit.pooled.applied(pooled, strength)}
