"""What "Causal Heatmap" sends to the page: the trace's numbers, and its example pictures as temporary files."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.v0_0_2 import ui

from ...tracing.payload import heatmap_payload
from ...tracing.result import CausalTrace, TraceError

EXAMPLES = ("clean", "corrupted", "restored")


def heatmap_output(trace: CausalTrace, pictures: torch.Tensor | None = None) -> dict[str, Any]:
    """The payload of one trace; a trace that is too large for the page gives its reason under ``refused``.

    Args:
        pictures: the trace node's three examples (3, height, width, 3): clean, corrupted, and restored at the cell with
            the largest effect.

    Raises:
        ValueError: not three pictures.
    """
    if pictures is not None and len(pictures) != len(EXAMPLES):
        raise ValueError(
            f"Causal Heatmap got {len(pictures)} pictures; expected the three of the output examples of the Causal "
            "Trace node that made this trace (clean, corrupted, restored)."
        )
    try:
        payload = heatmap_payload(trace)
    except TraceError as error:
        return {"refused": str(error)}
    if pictures is not None:
        files = ui.PreviewImage(pictures).values
        best = trace.best()
        payload["pictures"] = {
            "cell": [trace.sites.index(best.site), trace.columns.index(best.column)],
            **{name: dict(file) for name, file in zip(EXAMPLES, files, strict=True)},
        }
    return payload
