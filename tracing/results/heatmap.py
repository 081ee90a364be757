"""Drawing a causal trace, and the difference of two. Matplotlib is imported when something is drawn; its global state
is left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...families.heads import kind_of
from ...output.figures import as_pixels, as_svg, new_figure, shorten
from .comparison import Comparison
from .judgement import Judgement, judge
from .locate import best_cell
from .trace import PROBES, CausalTrace, TraceError

VALUES = ("indirect effect", "recovery")
_MOST_SITES, _MOST_CELLS, _MOST_KINDS = 1000, 25_000, 24


def draw_heatmap(
    trace: CausalTrace,
    *,
    value: str = VALUES[0],
    width: int = 1200,
    title: str | None = None,
    judgement: Judgement | None = None,
) -> np.ndarray:
    """The heat map as pixels, (height, width, 3) uint8: one panel for each kind of site, one color scale.

    Cells that do not differ from the control are hatched (with too few prompts to judge: cells within the range of the
    control runs), cells that were not measured are blank, the largest is outlined.

    Args:
        value: "indirect effect" (in units of the score) or "recovery" (share of the total effect).
        width: in pixels; the height follows from the number of sites.
        title: what stands on top; by default what the map shows.
        judgement: the trace's, where it is known already.

    Raises:
        ImportError: Matplotlib is missing.
        ValueError: unknown value.
        TraceError: too many cells for a picture.
    """
    return as_pixels(_figure(trace, value, width, title, judgement))


def heatmap_svg(
    trace: CausalTrace,
    *,
    value: str = VALUES[0],
    width: int = 1200,
    title: str | None = None,
    judgement: Judgement | None = None,
) -> str:
    """The heat map as SVG (see :func:`draw_heatmap`)."""
    return as_svg(_figure(trace, value, width, title, judgement))


def save_svg(
    trace: CausalTrace, path: Path, *, value: str = VALUES[0], width: int = 1200, title: str | None = None
) -> None:
    """Write the heat map as an SVG file, over one of the same name."""
    Path(path).write_text(heatmap_svg(trace, value=value, width=width, title=title), encoding="utf-8")


def _figure(trace: CausalTrace, value: str, width: int, title: str | None, judgement: Judgement | None = None) -> Any:
    if value not in VALUES:
        raise ValueError(f"Unknown value {value!r}; expected one of {', '.join(VALUES)}.")
    values = trace.average_indirect_effect() if value == VALUES[0] else trace.recovery()
    judgement = judgement or judge(trace)
    bar = "AIE" if value == VALUES[0] else "recovery"
    figure, height = _map(trace, values, judgement.hatched, width, _scale, bar)
    _words(figure, trace, judgement, value, height, title)
    return figure


def _map(
    shown: CausalTrace | Comparison,
    values: torch.Tensor,
    hatched: torch.Tensor,
    width: int,
    scale: Callable[[torch.Tensor], tuple[Any, Any]],
    bar_title: str,
) -> tuple[Any, float]:
    """A figure with one panel for each kind of site and the key to their color, and its height in inches."""
    groups: dict[str, list[int]] = {}
    for row, site in enumerate(shown.sites):
        groups.setdefault(kind_of(site), []).append(row)
    cells = len(shown.sites) * len(shown.columns)
    if len(shown.sites) > _MOST_SITES or cells > _MOST_CELLS or len(groups) > _MOST_KINDS:
        raise TraceError(
            f"The trace has {len(shown.sites)} sites of {len(groups)} kinds and {cells} cells; a heat map holds "
            f"{_MOST_SITES}, {_MOST_KINDS} and {_MOST_CELLS}. Trace fewer sites, or save the table instead."
        )
    cell = 0.24
    heights = [max(2, len(rows)) * cell for rows in groups.values()]
    turned = _turned(shown)
    top, between, bottom = 0.75, 0.28, 1.75 if turned else 1.2
    height = top + sum(heights) + between * (len(groups) - 1) + bottom
    figure = new_figure(width, height)
    colors = scale(values)
    mesh: Any = None
    edge = height - top
    # Of effects the largest, of differences that of either sign.
    sizes = values.abs() if isinstance(shown, Comparison) else values
    best = int(sizes.nan_to_num(-torch.inf).argmax()) if values.isfinite().any() else -1
    for (kind, rows), tall in zip(groups.items(), heights, strict=True):
        axes = figure.add_axes((0.2, (edge - tall) / height, 0.66, tall / height))
        edge -= tall + between
        mesh = _panel(axes, shown, kind, rows, values, hatched, best, colors)
        axes.tick_params(labelbottom=kind == list(groups)[-1])
    bar = figure.add_axes((0.88, bottom / height, 0.018, (height - top - bottom) / height))
    figure.colorbar(mesh, cax=bar)
    bar.tick_params(labelsize=8)
    bar.set_title(bar_title, fontsize=9)
    return figure, height


def draw_difference(found: Comparison, *, width: int = 1200) -> np.ndarray:
    """The difference of two traces as pixels, (height, width, 3) uint8, on one color scale with white at zero.

    Shared cells alone are drawn, and those that one trace did not measure are blank; the largest is outlined. What
    only one of the traces has is told below the map.

    Raises:
        ImportError: Matplotlib is missing.
        TraceError: too many cells for a picture.
    """
    values = found.difference
    none = torch.zeros_like(values, dtype=torch.bool)
    figure, height = _map(found, values, none, width, _both_signs, "first - other")
    figure.text(0.02, 1 - 0.3 / height, "Difference of two causal traces: first - other", fontsize=13, weight="bold")
    what = "average indirect effect; above zero the first trace's is larger, below zero the other's"
    figure.text(0.02, 1 - 0.55 / height, what, fontsize=9)
    lines = (_largest_difference(found), found.text(), f"Score: {shorten(found.score, 110)}")
    for number, line in enumerate(lines):
        figure.text(0.02, (0.62 - 0.22 * number) / height, line, fontsize=8.5)
    return as_pixels(figure)


def _largest_difference(found: Comparison) -> str:
    values = found.difference
    if not values.isfinite().any():
        return "No shared cell was measured by both."
    row, column = divmod(int(values.abs().nan_to_num(-torch.inf).argmax()), len(found.columns))
    where = f"{shorten(found.sites[row], 40)} at {shorten(found.columns[column], 20)}"
    return f"Largest difference: {where}, {float(values[row, column]):+.3f}."


def _scale(values: torch.Tensor) -> tuple[Any, Any]:
    """Cividis from zero for effects of one sign; blue over white to orange, centred on zero, for both signs."""
    import matplotlib
    from matplotlib.colors import Normalize

    finite = values[values.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if low >= -0.05 * max(high, 0.0):
        return Normalize(0.0, high if high > 0 else 1.0, clip=True), matplotlib.colormaps["cividis"]
    return _both_signs(values)


def _both_signs(values: torch.Tensor) -> tuple[Any, Any]:
    """Blue over white to orange, centred on zero, to the largest of either sign."""
    import matplotlib
    from matplotlib.colors import TwoSlopeNorm

    finite = values[values.isfinite()]
    most = float(finite.abs().max()) if len(finite) else 0.0
    return TwoSlopeNorm(0.0, -(most or 1.0), most or 1.0), matplotlib.colormaps["PuOr_r"]


def _turned(trace: CausalTrace | Comparison) -> bool:
    """Whether the columns' labels are too long to stand side by side."""
    return sum(min(len(column), 20) for column in trace.columns) > 90


def _panel(
    axes: Any,
    trace: CausalTrace | Comparison,
    kind: str,
    rows: list[int],
    values: torch.Tensor,
    hatched: torch.Tensor,
    best: int,
    scale: tuple[Any, Any],
) -> Any:
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Rectangle

    norm, cmap = scale
    part = np.ma.masked_invalid(values[rows].numpy())
    mesh = axes.pcolormesh(part, cmap=cmap, norm=norm, edgecolors="white", linewidth=0.6)
    axes.invert_yaxis()
    axes.set_facecolor("white")
    weak = (values[rows].isfinite() & hatched[rows]).nonzero().numpy()[:, None, ::-1]
    corners = weak + np.array([(0, 0), (1, 0), (1, 1), (0, 1)])
    axes.add_collection(
        PolyCollection(
            corners, facecolors=(0.62, 0.62, 0.62, 0.72), hatch="////", edgecolors=(0.45, 0.45, 0.45, 0.6), linewidths=0
        ),
        autolim=False,
    )
    row, x = divmod(best, len(trace.columns))
    if row in rows:
        corner = (x, rows.index(row))
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d1002f", linewidth=2.2, zorder=5))
    names = [shorten(trace.sites[row].split(".", 1)[-1].removesuffix("." + kind), 22) for row in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.5, names, fontsize=8)
    columns = [shorten(column, 20) for column in trace.columns]
    turned = _turned(trace)
    axes.set_xticks(
        np.arange(len(columns)) + 0.5,
        columns,
        fontsize=8,
        rotation=35 if turned else 0,
        ha="right" if turned else "center",
    )
    axes.set_ylabel(shorten(kind, 22), fontsize=9)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def _words(figure: Any, trace: CausalTrace, judgement: Judgement, value: str, height: float, title: str | None) -> None:
    many = f" and {len(trace.prompts) - 1} more" if len(trace.prompts) > 1 else ""
    where = "text encoder" if trace.component == "text" else "image model"
    what = f"{shorten(trace.prompts[0])}{many}   subject: {shorten(trace.subjects[0], 40)}"
    kind = "Causal trace" if trace.probe == PROBES[0] else "Other text in windows (LocoGen's probe)"
    heading = f"{kind} of the {where}: {value}" if title is None else shorten(title)
    figure.text(0.02, 1 - 0.3 / height, heading, fontsize=13, weight="bold")
    figure.text(0.02, 1 - 0.55 / height, what, fontsize=9)
    lines = (
        f"{_largest(trace, judgement)} Total effect of the corruption: {float(trace.total_effects().nanmean()):+.3f}.",
        f"{judgement.runs} runs a cell; {judgement.controls} control runs. {judgement.text()}",
        f"Score: {shorten(trace.score, 110)}",
    )
    for number, line in enumerate(lines):
        figure.text(0.02, (0.62 - 0.22 * number) / height, line, fontsize=8.5)


def _largest(trace: CausalTrace, judgement: Judgement) -> str:
    try:
        best = best_cell(trace, judgement=judgement)
    except TraceError:
        return "Nothing measured yet."
    sure = f", 95 % interval {best.low:+.3f} to {best.high:+.3f}" if best.low == best.low else ""
    sure += f", first in {best.first:.0%} of resamples" if best.first == best.first else ""
    return f"Largest effect: {shorten(best.site, 40)} at {shorten(best.column, 20)}, {best.effect:+.3f}{sure}."
