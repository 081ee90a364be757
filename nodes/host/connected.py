"""Inputs that ComfyUI delivers empty: the outputs of loaders whose file has no such part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Where people get what a socket carries.
_SOURCES = {
    "MODEL": "Load Checkpoint or Load Diffusion Model",
    "CLIP": "Load Checkpoint or Load CLIP",
    "VAE": "Load Checkpoint or Load VAE",
    "CLIP_VISION": "Load CLIP Vision",
    "CONDITIONING": "CLIP Text Encode",
    "LATENT": "Empty Latent Image",
    "CORRUPTION": "Corrupt Prompt",
    "CAUSAL_TRACE": "a causal trace or Load Trace",
    "WEIGHT_EDIT": "Remove Concept, Diff-QuickFix Edit or Load Edit",
    "CONCEPT_EDITS": "Concept Edit List",
    "IMAGE_SCORER": "Load CLIP Scorer",
}


class MissingInputError(ValueError):
    """An input that has to be connected and is empty."""


def require_inputs(node: str, kinds: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Refuse empty inputs.

    Args:
        node: the node's name on the page.
        kinds: the type of each input that has to be there.
        values: what came.

    Raises:
        MissingInputError: an input is None, or a VAE without a network in it; the message names what to connect.
    """
    for name, kind in kinds.items():
        if name in values and is_empty(values[name]):
            raise MissingInputError(
                f"{node}: the input {name} is empty, expected a {kind}. The node that is connected to it gives none: a "
                f"checkpoint of a model alone has no text encoder and no VAE. Connect {name} to "
                f"{_SOURCES.get(kind, f'a node that gives a {kind}')}."
            )


def is_empty(value: Any) -> bool:
    """Whether nothing came to an input."""
    # ComfyUI makes a VAE for a file without one, too, and tells when it is used.
    return value is None or (hasattr(value, "first_stage_model") and value.first_stage_model is None)
