"""What "Causal Heatmap" sends to the page: the trace's numbers, and its example pictures as temporary files."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.v0_0_2 import ui

from ...tracing.results.examples import UNRESTORED
from ...tracing.results.payload import heatmap_payload
from ...tracing.results.trace import CausalTrace, TraceError
from .progress import send

# In pixels; the node shows them smaller.
LONGEST_SIDE = 256


def heatmap_output(trace: CausalTrace, pictures: torch.Tensor | None = None) -> dict[str, Any]:
    """The payload of one trace; a trace that is too large for the page gives its reason under ``refused``.

    Args:
        pictures: the trace node's examples (n, height, width, 3), all or some of them. ``payload["pictures"]`` holds
            the files of "clean" and "corrupted", and of each "restored" picture as [row, column, file]; files are None
            where a picture is not among those given. A picture that is not one of the trace's is not shown.
    """
    try:
        payload = heatmap_payload(trace)
    except TraceError as error:
        return {"refused": str(error)}
    if pictures is not None:
        payload["pictures"] = _files_of(trace, pictures)
    return payload


def preview_ui(picture: torch.Tensor) -> dict[str, Any]:
    """What a node returns for the page to show a picture (1, height, width, 3) on it."""
    return ui.PreviewImage(picture).as_dict()


def send_partial(trace: CausalTrace) -> None:
    """Show a trace that is still running on the heat maps behind the running node. Nothing happens outside a node, and
    with a trace that is too large for the page or has no cell yet."""
    if not trace.restored.isfinite().any():
        return
    payload = heatmap_output(trace)
    if "refused" not in payload:
        send("diff_quickfix_trace", {"payload": payload})


def _files_of(trace: CausalTrace, pictures: torch.Tensor) -> dict[str, Any]:
    places = trace.examples.places(pictures) if trace.examples else (None,) * UNRESTORED
    cells = trace.examples.cells if trace.examples else ()
    used = sorted({place for place in places if place is not None})
    files: dict[int | None, Any] = {None: None}
    if used:
        saved = ui.PreviewImage(_small(pictures[used])).values
        files |= {place: dict(file) for place, file in zip(used, saved, strict=True)}
    clean, corrupted, *restored = (files[place] for place in places)
    return {
        "clean": clean,
        "corrupted": corrupted,
        "restored": [[*cell, file] for cell, file in zip(cells, restored, strict=True) if file],
    }


def _small(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (n, height, width, 3) of at most ``LONGEST_SIDE``."""
    height, width = pictures.shape[1:3]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return pictures
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return comfy.utils.common_upscale(pictures.movedim(-1, 1), *size, "area", "disabled").movedim(1, -1)
