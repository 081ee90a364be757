"""How many pictures fit into memory at once, before any of them is painted.

On a CPU running out of memory ends the process, and no exception can be caught; so it must be known beforehand.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import comfy.model_management

from ..objects import Model

log = logging.getLogger("diff_quickfix")

# ComfyUI's own margin on its estimate when it decides whether two halves of the guidance fit into one pass.
_MARGIN = 1.5


def usable_memory(model: Model) -> float:
    """Bytes for pictures on the model's device: what is free, and on a GPU what ComfyUI will free of other models."""
    device = model.load_device
    free = float(comfy.model_management.get_free_memory(device))
    if device.type == "cpu":
        return free
    loaded = sum(
        one.model_loaded_memory() for one in comfy.model_management.current_loaded_models if one.device == device
    )
    return max(0.0, free + loaded - model.model_size())


def rows_that_fit(model: Model, shape: Sequence[int], wanted: int) -> int:
    """How many latents to denoise at once: as many as wanted or, by ComfyUI's estimate, as many as memory holds.

    Args:
        shape: of one latent, (1, channels, height, width).

    Returns:
        From 1 to ``wanted``.
    """
    usable = usable_memory(model)
    rows = wanted
    while rows > 1 and model.model.memory_required([rows, *shape[1:]]) * _MARGIN > usable:
        rows -= 1
    if rows < wanted:
        log.info("Causal trace: %d pictures at once, since %.1f GiB are free", rows, usable / 2**30)
    return rows
