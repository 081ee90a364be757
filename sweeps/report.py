"""A sweep as one HTML page: maps, tables, settings, versions. It holds all that it shows, and asks for nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable
from html import escape
from pathlib import Path

import torch

from ..output.files import whole_file
from ..tracing.results.heatmap import VALUES, heatmap_svg
from ..tracing.results.locate import BestCell, best_cell
from ..tracing.results.trace import TraceError
from .page import embedded, folded, number, page, table
from .scores import SweepScores, sweep_scores
from .store import SweepFolder

_MOST_PROMPTS, _MOST_CELLS, _STRONGEST = 500, 5000, 12


def write_report(
    folder: SweepFolder, path: Path, *, partial: bool = False, overwrite: bool = False, level: float = 0.95
) -> None:
    """Write the page.

    Args:
        partial: take the prompts whose seeds are all there, and say so.
        level: of intervals and verdicts.

    Raises:
        SweepError: shards are missing.
        OSError: the file exists, or cannot be written.
    """
    path = Path(path)
    with whole_file(path, overwrite=overwrite) as part:
        text = report_page(folder, sweep_scores(folder, partial=partial, level=level))
        part.write_text(text, encoding="utf-8")


def report_page(folder: SweepFolder, scores: SweepScores) -> str:
    """The page of a sweep's scores."""
    plan = folder.plan
    title = f"Causal traces of {plan.model}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(folder, scores),
        "<h2>Maps</h2>",
        *maps(scores),
        "<h2>Strongest cells</h2>",
        cells(scores, _STRONGEST),
        folded("All cells", cells(scores, _MOST_CELLS)),
        "<h2>Prompts</h2>",
        _prompts(scores),
        "<h2>How it was made</h2>",
        _made(folder, scores),
        "<h2>How to read it</h2>",
        f"<p>{escape(_READING)}</p>",
    ]
    return page(title, parts)


_READING = (
    "In each run noise hides the subject of a prompt, or other words take its place, and one site is restored from the "
    "clean run. A cell's effect is how much the score rises by that; recovery is its share of what the corruption took "
    "away. Controls restore a random site from another corrupted run. A verdict of more or less differs from the "
    "control, with at most 5 % false alarms over all cells; p is of each cell for itself, q is p adjusted for the "
    "share of false findings (Benjamini and Hochberg). What is independent of another is a prompt: intervals and tests "
    "are over prompts. Recovery leaves out what has a total effect below 0.001: the table single runs, the map prompts."
)


def _summary(folder: SweepFolder, scores: SweepScores) -> str:
    trace, plan = scores.trace, folder.plan
    left_out = len(plan.prompts) - len(trace.prompts)
    sure = int((scores.judgement.verdict == 1).sum())
    entries = [
        (
            "Prompts",
            f"{len(trace.prompts):,}" + (f", and {left_out:,} that are not finished, left out" if left_out else ""),
        ),
        ("Seeds", f"{sum(map(len, plan.seeds)):,}"),
        ("Runs of each cell", f"{scores.judgement.runs:,}"),
        ("Cells", f"{len(trace.sites):,} sites by {len(trace.columns):,} columns"),
        ("Mean total effect of the corruption", f"{scores.total:+.4f}"),
        ("Strongest cell", best_said(scores)),
        (
            "Cells that bring back more than the control",
            f"{sure:,}" if scores.judgement.judged else scores.judgement.text(),
        ),
        ("Score", trace.score),
    ]
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries) + "</dl>"


def best_said(scores: SweepScores) -> str:
    """The cell with the largest effect, in words."""
    try:
        best: BestCell = best_cell(scores.trace, judgement=scores.judgement)
    except TraceError:
        return "nothing measured"
    sure = f" (95 % interval {best.low:+.4f} to {best.high:+.4f})" if best.low == best.low else ""
    return f"{best.site} at {best.column}: {best.effect:+.4f}{sure}"


def maps(scores: SweepScores) -> Iterable[str]:
    """The heat maps as parts of the page; where there are too many cells, a sentence."""
    for value in VALUES:
        try:
            drawn = heatmap_svg(scores.trace, value=value, judgement=scores.judgement)
        except TraceError as error:
            yield f"<p>{escape(str(error))}</p>"
            return
        said = f"Heat map of the {value} by site and column. {best_said(scores)}. The table below holds the numbers."
        yield f'<figure role="img" aria-label="{escape(said)}">{embedded(drawn)}</figure>'


def cells(scores: SweepScores, most: int) -> str:
    """The cells with the largest effects, as a table."""
    trace, judgement = scores.trace, scores.judgement
    order = scores.average.flatten().nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    order = order[: min(most, int(scores.average.isfinite().sum()))]
    rows = []
    for row, column in (divmod(place, len(trace.columns)) for place in order.tolist()):
        at = (row, column)
        verdict = {1.0: "more", -1.0: "less", 0.0: "no different"}.get(float(judgement.verdict[at]), "not judged")
        numbers = (scores.average[at], judgement.low[at], judgement.high[at], scores.recovery[at])
        rows.append(
            [
                trace.sites[row],
                trace.columns[column],
                *(number(value, "+.4f") for value in numbers),
                number(judgement.p[at], ".4f"),
                number(judgement.q[at], ".4f"),
                verdict,
            ]
        )
    heads = ["site", trace.column_axis, "effect", "from", "to", "recovery", "p", "q", "than the control"]
    return table(f"The {len(rows):,} cells with the largest effects", heads, rows, texts=(0, 1, 8))


def _prompts(scores: SweepScores) -> str:
    trace = scores.trace
    effects, total = trace.indirect_effects()[:, 0, 0], trace.total_effects()[:, 0, 0]
    rows = []
    for place, prompt in enumerate(trace.prompts[:_MOST_PROMPTS]):
        own = effects[place].nan_to_num(-torch.inf)
        site, column = divmod(int(own.argmax()), len(trace.columns))
        cell = f"{trace.sites[site]} at {trace.columns[column]}"
        clean, corrupted = trace.clean[place, 0], trace.corrupted[place, 0, 0]
        values = (clean, corrupted, total[place], own[site, column])
        rows.append([prompt, trace.subjects[place], *(number(value, "+.4f") for value in values), cell])
    heads = ["prompt", "subject", "clean", "corrupted", "total effect", "largest effect", "of"]
    caption = f"{len(rows):,} of {len(trace.prompts):,} prompts: means over seeds and draws"
    return folded("Every prompt with its scores", table(caption, heads, rows, texts=(0, 1, 6)), shown=len(rows) <= 20)


def _made(folder: SweepFolder, scores: SweepScores) -> str:
    plan = folder.plan
    made = scores.made_with
    entries = [
        ("Version of diff-quickfix", plan.version),
        ("Computed on", "; ".join(f"{said} ({count:,} shards)" for said, count in made.items())),
        ("Plan", plan.hash),
        *((f"Model: {name}", value) for name, value in plan.identity.items()),
        ("Seeds", ", ".join(str(seed) for block in plan.seeds for seed in block)),
    ]
    mixed = "<p>Shards were computed on different devices or versions, which may round otherwise.</p>" * (len(made) > 1)
    settings = [[name, json.dumps(value, ensure_ascii=False)] for name, value in sorted(plan.settings.items())]
    identified = table("What identifies the sweep", ["what", "value"], [list(entry) for entry in entries], texts=(0, 1))
    return identified + mixed + table("Settings", ["setting", "value"], settings, texts=(0, 1))
