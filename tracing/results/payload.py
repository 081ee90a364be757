"""A trace as plain numbers for a page that draws it: JSON values only, rounded, and of limited size."""

from __future__ import annotations

import math
from typing import Any

import torch

from .heatmap import shorten
from .locate import layer_of
from .statistics import LEAST_CONTROLS, beats_control, confidence_interval, null_interval
from .trace import CausalTrace, TraceError

VERSION = 1
MOST_CELLS, MOST_SITES, MOST_COLUMNS = 6000, 1000, 400
_LONGEST = 120
_DIGITS = 5
# Beyond this many half widths of the null interval, how far outside no longer matters.
_FARTHEST = 20.0


def heatmap_payload(trace: CausalTrace) -> dict[str, Any]:
    """Labels and per-cell numbers of a trace; matrices are lists of rows, sites x columns, with None for no number.

    ``effect``, ``recovery``, ``restored`` (mean score), ``low`` and ``high`` (95 % interval of the effect),
    ``significance`` (distance of the effect from the middle of the null interval, in half widths of it; beyond +-1 the
    cell lies outside), ``beats_control`` (0, 1, or None with too few controls to judge); ``layers`` holds the text
    encoder layer of each site, None for windows and UNet sites.

    Raises:
        TraceError: more cells than a page can draw.
    """
    sites, columns = len(trace.sites), len(trace.columns)
    if sites * columns > MOST_CELLS or sites > MOST_SITES or columns > MOST_COLUMNS:
        raise TraceError(
            f"The trace has {sites} sites and {columns} columns; the interactive heat map holds {MOST_SITES}, "
            f"{MOST_COLUMNS} and {MOST_CELLS} cells. Use the picture or the table."
        )
    low, high = confidence_interval(trace)
    judged = int(trace.control.isfinite().sum()) >= LEAST_CONTROLS
    beats = beats_control(trace).float() if judged else torch.full((sites, columns), torch.nan)
    matrices = {
        "effect": trace.average_indirect_effect(),
        "recovery": trace.recovery(),
        "restored": trace.restored.nanmean((0, 1, 2)),
        "low": low,
        "high": high,
        "significance": _significance(trace),
        "beats_control": beats,
    }
    return {
        "version": VERSION,
        "component": trace.component,
        "column_axis": trace.column_axis,
        "sites": [shorten(name, _LONGEST) for name in trace.sites],
        "layers": [layer_of(name) for name in trace.sites],
        "columns": [shorten(name, _LONGEST) for name in trace.columns],
        "prompt": shorten(trace.prompts[0], _LONGEST),
        "prompts": len(trace.prompts),
        "subject": shorten(trace.subjects[0], _LONGEST),
        "score": shorten(trace.score, _LONGEST),
        "clean": _number(float(trace.clean.nanmean())),
        "corrupted": _number(float(trace.corrupted.nanmean())),
        "runs": int(trace.restored.isfinite().sum((0, 1, 2)).max()),
        "controls": int(trace.control.isfinite().sum()),
        **{name: [[_number(value) for value in row] for row in values.tolist()] for name, values in matrices.items()},
    }


def _significance(trace: CausalTrace) -> torch.Tensor:
    low, high = null_interval(trace)
    distance = trace.average_indirect_effect() - (low + high) / 2
    half = ((high - low) / 2).clamp_min(torch.finfo(torch.float32).tiny)
    return (distance / half).clamp(-_FARTHEST, _FARTHEST)


def _number(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
