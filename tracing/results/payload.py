"""A trace as plain numbers for a page that draws it: JSON values only, rounded, and of limited size."""

from __future__ import annotations

import math
from typing import Any

from .heatmap import shorten
from .judgement import judge
from .locate import layer_of
from .trace import CausalTrace, TraceError

VERSION = 1
MOST_CELLS, MOST_SITES, MOST_COLUMNS = 6000, 1000, 400
_LONGEST = 120
_DIGITS = 5


def heatmap_payload(trace: CausalTrace) -> dict[str, Any]:
    """Labels and per-cell numbers of a trace; matrices are lists of rows, sites x columns, with None for no number.

    ``effect``, ``recovery``, ``restored`` (mean score), ``low`` and ``high`` (95 % interval of the effect),
    ``significance`` (from 1 or -1 on, the cell differs from the control), ``p`` and ``q`` (of the cell for itself, and
    with Benjamini and Hochberg's adjustment), ``first`` (share of resamples in which the cell is the largest),
    ``beats_control`` (1, 0, -1 where it brings back less, None where prompts or controls are too few), ``hatched`` (0,
    1); see :class:`~.judgement.Judgement`.
    ``judged`` tells whether hatching is a verdict; ``layers`` holds the text encoder layer of each site, None for
    windows and sites of an image model.

    Raises:
        TraceError: more cells than a page can draw.
    """
    sites, columns = len(trace.sites), len(trace.columns)
    if sites * columns > MOST_CELLS or sites > MOST_SITES or columns > MOST_COLUMNS:
        raise TraceError(
            f"The trace has {sites} sites and {columns} columns; the interactive heat map holds {MOST_SITES}, "
            f"{MOST_COLUMNS} and {MOST_CELLS} cells. Use the picture or the table."
        )
    judgement = judge(trace)
    matrices = {
        "effect": trace.average_indirect_effect(),
        "recovery": trace.recovery(),
        "restored": trace.restored.nanmean((0, 1, 2)),
        "low": judgement.low,
        "high": judgement.high,
        "significance": judgement.significance,
        "p": judgement.p,
        "q": judgement.q,
        "first": judgement.first,
        "beats_control": judgement.verdict,
        "hatched": judgement.hatched.float(),
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
        "controls": judgement.controls,
        "judged": judgement.judged,
        **{name: [[_number(value) for value in row] for row in values.tolist()] for name, values in matrices.items()},
    }


def _number(value: float) -> float | None:
    if not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
