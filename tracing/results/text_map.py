"""A causal trace as a map of letters and blocks, for a terminal."""

from __future__ import annotations

import torch

from ...output.figures import shorten
from .heatmap import VALUES
from .judgement import Judgement, judge
from .locate import best_cell
from .trace import PROBES, CausalTrace, TraceError

# From nothing to the largest value, and what stands for a value below zero.
_SHADES, _BELOW, _UNKNOWN = " \u2591\u2592\u2593\u2588", "-", "?"
_LONGEST_NAME = 28


def text_map(
    trace: CausalTrace, *, value: str = VALUES[0], width: int = 100, judgement: Judgement | None = None
) -> str:
    """Rows of sites, columns of the trace's columns: a block that is the darker the larger a value is, and the value.

    A star stands behind cells that bring back more than the control, "-" for values below zero, "?" where nothing was
    measured. Columns that do not fit stand as blocks alone, numbered.

    Args:
        value: "indirect effect" or "recovery".
        width: of the terminal, in letters.
        judgement: the trace's, where it is known already.

    Raises:
        TraceError: unknown value.
    """
    if value not in VALUES:
        raise TraceError(f"Unknown value {value!r}; expected one of {', '.join(VALUES)}.")
    judgement = judgement or judge(trace)
    values = trace.average_indirect_effect() if value == VALUES[0] else trace.recovery()
    finite = values[values.isfinite()]
    most = float(finite.max()) if len(finite) else 0.0
    names = [shorten(site, _LONGEST_NAME) for site in trace.sites]
    margin = max(map(len, names)) + 1
    wide = max(10, *(len(shorten(column, 20)) + 1 for column in trace.columns))
    roomy = margin + wide * len(trace.columns) <= width
    if roomy:
        heads = "".join(shorten(column, 20).ljust(wide) for column in trace.columns)
    else:
        wide, heads = 2, "".join(f"{number % 100:<2}" for number in range(1, len(trace.columns) + 1))
    lines = [" " * margin + heads.rstrip()]
    for row, name in enumerate(names):
        cells = [
            _cell(values[row, column], bool(judgement.beats_control[row, column]), most, roomy)
            for column in range(len(trace.columns))
        ]
        lines.append(name.ljust(margin) + "".join(cell.ljust(wide) for cell in cells).rstrip())
    if not roomy:
        lines += ["", *(f"{number}: {shorten(column)}" for number, column in enumerate(trace.columns, 1))]
    return "\n".join([*lines, "", *_words(trace, judgement, value)])


def _cell(value: torch.Tensor, beats: bool, most: float, roomy: bool) -> str:
    number = float(value)
    if number != number:
        return _UNKNOWN
    star = "*" if beats else ""
    shade = round(max(number, 0.0) / most * (len(_SHADES) - 1)) if most > 0 else 0
    block = _BELOW if number < 0 else _SHADES[shade]
    return f"{block * 2} {number:+.3f}{star}" if roomy else f"{block}{star}"


def _words(trace: CausalTrace, judgement: Judgement, value: str) -> list[str]:
    try:
        best = best_cell(trace, judgement=judgement)
    except TraceError:
        return ["Nothing measured yet."]
    sure = f", 95 % interval {best.low:+.3f} to {best.high:+.3f}" if best.low == best.low else ""
    does = "brings back" if trace.probe == PROBES[0] else "takes away"
    stars = f"* {does} more than the control." if judgement.judged else judgement.text()
    return [
        f"{value}; {len(trace.prompts)} prompt{'s' * (len(trace.prompts) != 1)}. {stars}",
        f"Largest effect: {shorten(best.site, 40)} at {shorten(best.column, 30)}, {best.effect:+.3f}{sure}.",
        f"Score: {shorten(trace.score)}",
    ]
