"""Pictures of a report and of a lambda curve. Matplotlib is imported when one is drawn."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...output.figures import as_pixels, new_figure, shorten
from ..solver.spectrum import DRIFT_LIMIT, LambdaCurve
from .report import EditReport
from .target_ranking import Candidate, TargetRanking
from .verdict import HARMFUL_DRIFT, LOST, weak_line

_GOOD, _BAD, _NEUTRAL, _MARK = "#2f6f8f", "#c8553d", "#8a8a8a", "#d1002f"
_COLORS = {"strong": "#2e7d4f", "weak": "#b7791f", "harmful": _BAD, "unknown": _NEUTRAL}
# Heights in inches: of a bar, of what stands below a panel.
_BAR, _BELOW = 0.3, 0.65
# Candidates that are named in a picture.
_LABELS = 24


def draw_report(report: EditReport, *, width: int = 900, title: str = "") -> np.ndarray:
    """A report as bars, (height, width, 3) uint8: what the edit reaches above, what it moves below.

    Args:
        width: in pixels.
        title: what was edited.

    Raises:
        ImportError: Matplotlib is missing.
    """
    panels = _panels(report)
    words = textwrap.wrap(report.verdict, width=max(30, width // 8))
    top = 0.55 + 0.2 * len(words)
    height = top + sum(_BAR * len(panel.bars) + _BELOW for panel in panels)
    figure = new_figure(width, height)
    figure.text(0.02, 1 - 0.3 / height, shorten(title) or "Diff-QuickFix edit", fontsize=13, weight="bold")
    color = _COLORS[report.verdict.split(":")[0]]
    for number, line in enumerate(words):
        figure.text(0.02, 1 - (0.52 + 0.2 * number) / height, line, fontsize=9, color=color)
    bottom = height - top
    for panel in panels:
        tall = _BAR * len(panel.bars)
        axes = figure.add_axes((0.36, (bottom - tall) / height, 0.54, tall / height))
        _bars(
            axes,
            list(panel.bars),
            panel.color,
            max([panel.most, *(1.1 * value for _, value in panel.bars if panel.color == _BAD)]),
        )
        axes.axvline(panel.line, color=_NEUTRAL, linewidth=1, linestyle="--")
        axes.set_xlabel(panel.label, fontsize=8)
        bottom -= tall + _BELOW
    return as_pixels(figure)


def draw_curve(curve: LambdaCurve, *, width: int = 900, title: str = "") -> np.ndarray:
    """Efficacy and drift over lambda, the knee marked, (height, width, 3) uint8.

    Raises:
        ImportError: Matplotlib is missing.
    """
    figure, axes = _titled_axes(width, 4.2, 0.8, shorten(title) or "What lambda buys and costs")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.plot(curve.lambdas, curve.efficacy, color=_GOOD, linewidth=2)
    axes.set_ylim(0.0, 1.02)
    axes.set_ylabel("efficacy", color=_GOOD, fontsize=9)
    axes.set_xlabel("lambda", fontsize=9)
    costs = axes.twinx()
    costs.plot(curve.lambdas, curve.drift, color=_BAD, linewidth=2)
    costs.set_ylim(0.0, max(1.25 * DRIFT_LIMIT, 1.05 * max(curve.drift)))
    costs.set_ylabel("drift of everyday prompts", color=_BAD, fontsize=9)
    costs.axhline(DRIFT_LIMIT, color=_BAD, linewidth=1, linestyle=":")
    axes.axvline(curve.best, color=_MARK, linewidth=1.5)
    right = curve.knee < len(curve.lambdas) // 2
    axes.annotate(
        f"lambda {curve.best:.3g}: efficacy {curve.efficacy[curve.knee]:.0%}, drift {curve.drift[curve.knee]:.1%}",
        (curve.best, 1.0),
        xytext=(6 if right else -6, -10),
        textcoords="offset points",
        fontsize=9,
        color=_MARK,
        ha="left" if right else "right",
    )
    for part in (axes, costs):
        part.tick_params(labelsize=8)
        part.spines["top"].set_visible(False)
    return as_pixels(figure)


def draw_targets(ranking: TargetRanking, *, width: int = 900) -> np.ndarray:
    """Removal against drift, a point for each candidate, the best one marked, (height, width, 3) uint8.

    Raises:
        ImportError: Matplotlib is missing.
    """
    figure, axes = _titled_axes(width, 4.8, 0.86, f"What {shorten(ranking.source, 40)} could become")
    for number, one in enumerate(ranking.candidates):
        color = _NEUTRAL if number else _MARK
        axes.plot(one.drift, one.removal, "o", color=color, markersize=8 if number else 11)
    most = max(1.25 * DRIFT_LIMIT, *(1.1 * one.drift for one in ranking.candidates))
    low, high = (pick([0.0, 1.0, *(one.removal for one in ranking.candidates)]) for pick in (min, max))
    axes.set_xlim(0.0, most)
    axes.set_ylim(low - 0.05, high + 0.05)
    _label_points(axes, ranking.candidates[:_LABELS])
    axes.axvline(DRIFT_LIMIT, color=_BAD, linewidth=1, linestyle=":")
    axes.axhline(0.0, color=_NEUTRAL, linewidth=1)
    axes.set_xlabel("drift of everyday prompts; right of the line an edit is harmful", fontsize=9)
    axes.set_ylabel("removal: how near to plain words", fontsize=9)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return as_pixels(figure)


def _titled_axes(width: int, height: float, share: float, title: str) -> tuple[Any, Any]:
    """A figure ``width`` pixels wide and ``height`` inches high, and axes under its title over a share of the width."""
    figure = new_figure(width, height)
    figure.text(0.02, 1 - 0.3 / height, title, fontsize=13, weight="bold")
    return figure, figure.add_axes((0.09, 0.6 / height, share, (height - 1.15) / height))


def _label_points(axes: Any, candidates: Sequence[Candidate]) -> None:
    """Names in a column right of the points, in the points' order from the top, each with a thin line to its own."""
    right = max(one.drift for one in candidates) + 0.02 * axes.get_xlim()[1]
    low, high = axes.get_ylim()
    line = (high - low) / (_LABELS + 1)
    ordered = sorted(candidates, key=lambda one: -one.removal)
    heights, free = [], high
    for one in ordered:
        heights.append(free := min(one.removal, free - line))
    free = low
    for number in reversed(range(len(heights))):
        heights[number] = free = max(heights[number], free + line)
    for one, height in zip(ordered, heights, strict=True):
        best = one is candidates[0]
        axes.annotate(
            shorten(one.target, 30),
            (one.drift, one.removal),
            xytext=(right, height),
            va="center",
            fontsize=8,
            color=_MARK if best else "black",
            weight="bold" if best else "normal",
            arrowprops={"arrowstyle": "-", "color": _NEUTRAL, "linewidth": 0.6, "relpos": (0.0, 0.5)},
        )


class _Panel(NamedTuple):
    """Bars over one axis, with a line where a verdict changes."""

    bars: Sequence[tuple[str, float]]
    color: str
    most: float
    line: float
    label: str


def _panels(report: EditReport) -> list[_Panel]:
    reached = _Panel(_reached_bars(report), _GOOD, 1.0, weak_line(report), "share; left of the line an edit is weak")
    moved = _Panel(
        _moved_bars(report),
        _BAD,
        1.25 * HARMFUL_DRIFT,
        HARMFUL_DRIFT,
        "relative change; right of the line an edit is harmful",
    )
    names = [(shorten(name, 38), share) for name, share in report.neighbours.worst] if report.neighbours else []
    label = "names like it: how far each moves to what all share; right of the line it is lost"
    return [reached, moved, *([_Panel(names, _BAD, 1.0, LOST, label)] if names else [])]


def _reached_bars(report: EditReport) -> list[tuple[str, float]]:
    bars = [] if report.efficacy is None else [("efficacy", report.efficacy)]
    bars += [(f"generality, {kind}", share) for kind, share in report.generality]
    bars.append(("specificity", report.specificity))
    if report.storage is not None:
        bars.append(("realised after rounding", report.storage.realised))
    return bars


def _moved_bars(report: EditReport) -> list[tuple[str, float]]:
    bars = [("drift, everyday prompts", report.drift), ("drift, empty prompt", report.empty_prompt_drift)]
    if report.final is not None:
        bars += [
            ("final states, everyday captions", report.final.drift),
            ("final states, empty prompt", report.final.empty_prompt_drift),
        ]
    return bars + [(f"{shorten(prompt, 38)}", drift) for prompt, drift in report.worst_hit]


def _bars(axes: Any, bars: list[tuple[str, float]], color: str, most: float) -> None:
    places = range(len(bars))
    axes.barh(places, [min(most, max(0.0, value)) for _, value in bars], height=0.68, color=color)
    for place, (_, value) in zip(places, bars, strict=True):
        axes.text(min(most, max(0.0, value)) + 0.01 * most, place, f"{value:.1%}", va="center", fontsize=8)
    axes.set_yticks(list(places), [name for name, _ in bars], fontsize=8)
    axes.set_xlim(0.0, most)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
