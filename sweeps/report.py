"""A sweep as one HTML page: maps, tables, settings, versions. It holds all that it shows, and asks for nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import torch

from ..output.files import whole_file
from ..tracing.results.heatmap import VALUES, heatmap_svg
from ..tracing.results.locate import BestCell, best_cell
from ..tracing.results.trace import TraceError
from .scores import SweepScores, sweep_scores
from .store import SweepFolder

_MOST_PROMPTS, _MOST_CELLS, _STRONGEST = 500, 5000, 12
_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #55555f; --paper: #ffffff; --line: #d8d8de; --card: #f5f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf1; --soft: #b4b4be; --paper: #17171b; --line: #3a3a42; --card: #202026; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h1, h2 { line-height: 1.2; }
p, dd, figcaption, caption { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.4rem 0; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--card); }
td.number { text-align: right; white-space: nowrap; }
td.text { overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: #ffffff; color: #1b1b1f; border: 1px solid var(--line); padding: 0.5rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #55555f; padding: 0.3rem; }
.wide { overflow-x: auto; }
pre { background: var(--card); padding: 1rem; overflow-x: auto; }
"""


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
        page = report_page(folder, sweep_scores(folder, partial=partial, level=level))
        part.write_text(page, encoding="utf-8")


def report_page(folder: SweepFolder, scores: SweepScores) -> str:
    """The page of a sweep's scores."""
    plan = folder.plan
    title = f"Causal traces of {plan.model}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        _summary(folder, scores),
        "<h2>Maps</h2>",
        *_maps(scores),
        "<h2>Strongest cells</h2>",
        _cells(scores, _STRONGEST),
        _folded("All cells", _cells(scores, _MOST_CELLS)),
        "<h2>Prompts</h2>",
        _prompts(scores),
        "<h2>How it was made</h2>",
        _made(folder, scores),
        "<h2>How to read it</h2>",
        f"<p>{escape(_READING)}</p>",
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


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
    best = _best(scores)
    entries = [
        (
            "Prompts",
            f"{len(trace.prompts):,}" + (f", and {left_out:,} that are not finished, left out" if left_out else ""),
        ),
        ("Seeds", f"{sum(map(len, plan.seeds)):,}"),
        ("Runs of each cell", f"{scores.judgement.runs:,}"),
        ("Cells", f"{len(trace.sites):,} sites by {len(trace.columns):,} columns"),
        ("Mean total effect of the corruption", f"{scores.total:+.4f}"),
        ("Strongest cell", best),
        (
            "Cells that bring back more than the control",
            f"{sure:,}" if scores.judgement.judged else scores.judgement.text(),
        ),
        ("Score", trace.score),
    ]
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in entries) + "</dl>"


def _best(scores: SweepScores) -> str:
    try:
        best: BestCell = best_cell(scores.trace, judgement=scores.judgement)
    except TraceError:
        return "nothing measured"
    sure = f" (95 % interval {best.low:+.4f} to {best.high:+.4f})" if best.low == best.low else ""
    return f"{best.site} at {best.column}: {best.effect:+.4f}{sure}"


def _maps(scores: SweepScores) -> Iterable[str]:
    """The heat maps as parts of the page; where there are too many cells, a sentence."""
    for value in VALUES:
        try:
            drawn = heatmap_svg(scores.trace, value=value, judgement=scores.judgement)
        except TraceError as error:
            yield f"<p>{escape(str(error))}</p>"
            return
        said = f"Heat map of the {value} by site and column. {_best(scores)}. The table below holds the numbers."
        yield f'<figure role="img" aria-label="{escape(said)}">{_embedded(drawn)}</figure>'


def _embedded(svg: str) -> str:
    """An SVG file as an element of a page: without its head and its metadata, hidden from screen readers."""
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    return inner.replace("<svg", '<svg aria-hidden="true"', 1).strip()


def _cells(scores: SweepScores, most: int) -> str:
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
                *(_number(value, "+.4f") for value in numbers),
                _number(judgement.p[at], ".4f"),
                _number(judgement.q[at], ".4f"),
                verdict,
            ]
        )
    heads = ["site", trace.column_axis, "effect", "from", "to", "recovery", "p", "q", "than the control"]
    return _table(f"The {len(rows):,} cells with the largest effects", heads, rows, texts=(0, 1, 8))


def _prompts(scores: SweepScores) -> str:
    trace = scores.trace
    effects, total = trace.indirect_effects()[:, 0, 0], trace.total_effects()[:, 0, 0]
    rows = []
    for number, prompt in enumerate(trace.prompts[:_MOST_PROMPTS]):
        own = effects[number].nan_to_num(-torch.inf)
        site, column = divmod(int(own.argmax()), len(trace.columns))
        cell = f"{trace.sites[site]} at {trace.columns[column]}"
        clean, corrupted = trace.clean[number, 0], trace.corrupted[number, 0, 0]
        values = (clean, corrupted, total[number], own[site, column])
        rows.append([prompt, trace.subjects[number], *(_number(value, "+.4f") for value in values), cell])
    heads = ["prompt", "subject", "clean", "corrupted", "total effect", "largest effect", "of"]
    caption = f"{len(rows):,} of {len(trace.prompts):,} prompts: means over seeds and draws"
    return _folded("Every prompt with its scores", _table(caption, heads, rows, texts=(0, 1, 6)), shown=len(rows) <= 20)


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
    table = _table("What identifies the sweep", ["what", "value"], [list(entry) for entry in entries], texts=(0, 1))
    return table + mixed + _table("Settings", ["setting", "value"], settings, texts=(0, 1))


def _number(value: torch.Tensor, form: str) -> str:
    number = float(value)
    return format(number, form) if abs(number) < float("inf") else "-"


def _folded(title: str, inner: str, shown: bool = False) -> str:
    return f"<details{' open' * shown}><summary>{escape(title)}</summary>{inner}</details>"


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Sequence[int]) -> str:
    """A table whose columns are numbers, but for those of ``texts``."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    kinds = ["text" if number in texts else "number" for number in range(len(heads))]
    lines = (
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>{inner}</table></div>'
