"""Drawing a causal trace. Matplotlib is imported when something is drawn, and never touches its global state."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .result import CausalTrace
from .statistics import beats_control, confidence_interval

VALUES = ("indirect effect", "recovery")
_LONGEST = 90
_DPI = 100


def draw_heatmap(trace: CausalTrace, *, value: str = VALUES[0], width: int = 1200) -> np.ndarray:
    """The heat map as pixels, (height, width, 3) uint8: one panel for each kind of site, one color scale.

    Cells that do not beat the control are hatched, cells that were not measured are blank, the largest is outlined.

    Args:
        value: "indirect effect" (in units of the score) or "recovery" (share of the total effect).
        width: in pixels; the height follows from the number of sites.

    Raises:
        ImportError: Matplotlib is missing.
        ValueError: unknown value.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = _figure(trace, value, width)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def heatmap_svg(trace: CausalTrace, *, value: str = VALUES[0], width: int = 1200) -> str:
    """The heat map as SVG (see :func:`draw_heatmap`)."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    out = io.StringIO()
    FigureCanvasSVG(_figure(trace, value, width)).print_svg(out)
    return out.getvalue()


def save_svg(trace: CausalTrace, path: Path, *, value: str = VALUES[0]) -> None:
    """Write the heat map as an SVG file."""
    path.write_text(heatmap_svg(trace, value=value), encoding="utf-8")


def shorten(text: str, longest: int = _LONGEST) -> str:
    """A stranger's text for a label: printable, on one line, not endless."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def _figure(trace: CausalTrace, value: str, width: int) -> Any:
    if value not in VALUES:
        raise ValueError(f"Unknown value {value!r}; expected one of {', '.join(VALUES)}.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing heat maps needs Matplotlib, which is not installed. Install it into ComfyUI's Python: "
            "python -m pip install matplotlib"
        ) from error
    values = trace.average_indirect_effect() if value == VALUES[0] else trace.recovery()
    strong = beats_control(trace)
    groups: dict[str, list[int]] = {}
    for row, site in enumerate(trace.sites):
        groups.setdefault(site.rsplit(".", 1)[-1], []).append(row)
    inches = width / _DPI
    cell = 0.24
    heights = [max(2, len(rows)) * cell for rows in groups.values()]
    turned = _turned(trace)
    top, between, bottom = 0.75, 0.28, 1.75 if turned else 1.2
    height = top + sum(heights) + between * (len(groups) - 1) + bottom
    figure = Figure(figsize=(inches, height), dpi=_DPI)
    norm, cmap = _scale(values)
    mesh: Any = None
    edge = height - top
    best = int(values.nan_to_num(-torch.inf).argmax())
    for (kind, rows), tall in zip(groups.items(), heights, strict=True):
        axes = figure.add_axes((0.2, (edge - tall) / height, 0.66, tall / height))
        edge -= tall + between
        mesh = _panel(axes, trace, kind, rows, values, strong, best, cmap, norm)
        axes.tick_params(labelbottom=kind == list(groups)[-1])
    bar = figure.add_axes((0.88, bottom / height, 0.018, (height - top - bottom) / height))
    figure.colorbar(mesh, cax=bar)
    bar.tick_params(labelsize=8)
    bar.set_title("AIE" if value == VALUES[0] else "recovery", fontsize=9)
    _words(figure, trace, value, height)
    return figure


def _scale(values: torch.Tensor) -> tuple[Any, Any]:
    """Cividis from zero for effects of one sign; blue over white to orange, centred on zero, for both signs."""
    import matplotlib
    from matplotlib.colors import Normalize, TwoSlopeNorm

    finite = values[values.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    if low >= -0.05 * max(high, 0.0):
        return Normalize(0.0, high if high > 0 else 1.0, clip=True), matplotlib.colormaps["cividis"]
    most = max(abs(low), abs(high)) or 1.0
    return TwoSlopeNorm(0.0, -most, most), matplotlib.colormaps["PuOr_r"]


def _turned(trace: CausalTrace) -> bool:
    """Whether the columns' labels are too long to stand side by side."""
    return sum(min(len(column), 20) for column in trace.columns) > 90


def _panel(
    axes: Any, trace: CausalTrace, kind: str, rows: list[int], values: torch.Tensor, strong: torch.Tensor, best: int,
    cmap: Any, norm: Any,
) -> Any:  # fmt: skip
    from matplotlib.patches import Rectangle

    part = np.ma.masked_invalid(values[rows].numpy())
    mesh = axes.pcolormesh(part, cmap=cmap, norm=norm, edgecolors="white", linewidth=0.6)
    axes.invert_yaxis()
    axes.set_facecolor("white")
    for y, row in enumerate(rows):
        for x in range(len(trace.columns)):
            if bool(values[row, x].isfinite()) and not bool(strong[row, x]):
                axes.add_patch(Rectangle((x, y), 1, 1, facecolor=(0.62, 0.62, 0.62, 0.72), hatch="////",
                                         edgecolor=(0.45, 0.45, 0.45, 0.6), linewidth=0))
            if row * len(trace.columns) + x == best:
                axes.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="#d1002f", linewidth=2.2, zorder=5))
    names = [shorten(trace.sites[row].split(".", 1)[-1].removesuffix("." + kind), 22) for row in rows]
    axes.set_yticks(np.arange(len(rows)) + 0.5, names, fontsize=8, parse_math=False)
    columns = [shorten(column, 20) for column in trace.columns]
    turned = _turned(trace)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns, fontsize=8, rotation=35 if turned else 0,
                    ha="right" if turned else "center", parse_math=False)
    axes.set_ylabel(kind, fontsize=9)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def _words(figure: Any, trace: CausalTrace, value: str, height: float) -> None:
    many = f" and {len(trace.prompts) - 1} more" if len(trace.prompts) > 1 else ""
    where = "text encoder" if trace.component == "text" else "UNet"
    what = f"{shorten(trace.prompts[0])}{many}   subject: {shorten(trace.subjects[0], 40)}"
    figure.text(0.02, 1 - 0.3 / height, f"Causal trace of the {where}: {value}", fontsize=13, weight="bold")
    figure.text(0.02, 1 - 0.55 / height, what, fontsize=9, parse_math=False)
    runs = int(trace.indirect_effects().isfinite().sum((0, 1, 2)).max())
    low, high = confidence_interval(trace)
    best = divmod(int(trace.average_indirect_effect().nan_to_num(-torch.inf).argmax()), len(trace.columns))
    effect = trace.average_indirect_effect()[best]
    sure = f", 95 % interval {low[best]:+.3f} to {high[best]:+.3f}" if bool(low[best].isfinite()) else ""
    controls = int(trace.control.isfinite().sum())
    lines = (
        f"Largest: {trace.sites[best[0]]} at {shorten(trace.columns[best[1]], 20)}, {effect:+.3f}{sure}. "
        f"Total effect of the corruption: {float(trace.total_effects().nanmean()):+.3f}.",
        f"{runs} runs a cell; {controls} control runs. "
        + ("Hatched: does not beat the control." if controls >= 4 else "Hatched: too few control runs to judge."),
        f"Score: {shorten(trace.score, 110)}",
    )
    for number, line in enumerate(lines):
        figure.text(0.02, (0.62 - 0.22 * number) / height, line, fontsize=8.5, parse_math=False)
