"""What was reproduced as one HTML page: verdicts, maps, tables beside published figures, what was skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ..sweeps.page import folded, page, table
from ..sweeps.report import best_said, cells, maps
from ..sweeps.scores import SweepScores
from .edits import EditResult
from .verdicts import RULES, Mean, Verdict, claims, drops, figures

_CELLS = 12
NONE = "none published that this version knows"
_EXPERIMENTS = {
    "layers": "The edit at each self-attention layer",
    "single": "Single concepts",
    "ten": "Ten concepts at once",
}


@dataclass(frozen=True)
class Reproduced:
    """All that a page shows.

    Attributes:
        model: its name or place.
        scores: by component and attribute.
        edits: what each edit did.
        verdicts: on each claim.
        skipped: what was left out, and why.
        settings: of all runs.
        identity: of the model, by content.
        version: of this library.
    """

    model: str
    scores: Mapping[tuple[str, str], SweepScores]
    edits: tuple[EditResult, ...]
    verdicts: tuple[Verdict, ...]
    skipped: tuple[str, ...]
    settings: Mapping[str, Any]
    identity: Mapping[str, str]
    version: str


def reproduced_page(found: Reproduced) -> str:
    """The page."""
    title = f"The paper's experiments on {found.model}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        "<p>Basu et al., Localizing and Editing Knowledge in Text-to-Image Generative Models, ICLR 2024, arXiv "
        "2310.13730. The prompts are this project's own; the paper's are not published with its figures.</p>",
        "<h2>What holds on this model</h2>",
        _verdicts(found.verdicts),
        _skipped(found.skipped),
        *_traces(found.scores),
        *_edits(found.edits),
        "<h2>How it was made</h2>",
        _made(found),
    ]
    return page(title, parts)


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    parts = []
    for claim in claims():
        rows = [[one.of or "all", one.verdict, one.why] for one in verdicts if one.claim == claim["id"]]
        said = f"{claim['claim']} Published for {claim['model']}: {claim['source']}."
        parts.append(f"<h3>{escape(claim['claim'])}</h3>")
        parts.append(table(said, ["of", "verdict", "numbers"], rows, texts=(0, 1, 2)))
        parts.append(f"<p>{escape(RULES[claim['id']])}</p>")
    return "\n".join(parts)


def _skipped(skipped: Sequence[str]) -> str:
    if not skipped:
        return ""
    return "<h2>What was skipped</h2><ul>" + "".join(f"<li>{escape(text)}</li>" for text in skipped) + "</ul>"


def _traces(scores: Mapping[tuple[str, str], SweepScores]) -> list[str]:
    parts = []
    if scores:
        rows = [
            [attribute, component, f"{len(one.trace.prompts)}", f"{one.total:+.4f}", best_said(one), NONE]
            for (component, attribute), one in scores.items()
        ]
        heads = ["attribute", "component", "prompts", "total effect", "strongest cell", "published number"]
        parts = ["<h2>Traces</h2>", table("Strongest cells", heads, rows, texts=(0, 1, 4, 5))]
    for (component, attribute), one in scores.items():
        what = "Text encoder" if component == "text" else "Image model"
        parts += [f"<h3>{what}: {escape(attribute)}</h3>", *maps(one), folded("Strongest cells", cells(one, _CELLS))]
    return parts


def _edits(edits: Sequence[EditResult]) -> list[str]:
    parts = ["<h2>Edits</h2>"] if edits else []
    for experiment, title in _EXPERIMENTS.items():
        results = [one for one in edits if one.experiment == experiment]
        if not results:
            continue
        heads = [
            "edit",
            "the paper's",
            "distance, naming it",
            "distance, others",
            "score before",
            "score after",
            "drop, naming it",
            "drop, others",
        ]
        score = results[0].score
        scored = f"Score: {score}." if score else "No scorer was given: distances alone are measured."
        caption = f"{title}: means over prompts with 95 % intervals. Distance: of the final latents. {scored}"
        parts += [f"<h3>{title}</h3>", table(caption, heads, [_edit_row(one) for one in results], texts=(0, 1))]
        parts.append(_beside(experiment))
    return parts


def _edit_row(one: EditResult) -> list[str]:
    def said(values: Sequence[float | None]) -> str:
        mean = Mean.of([value for value in values if value is not None])
        return "-" if mean is None else mean.text()

    naming, others = ([entry for entry in one.painted if entry.names == names] for names in (True, False))
    return [
        one.title,
        "yes" if one.published else "no",
        said([entry.distance for entry in naming]),
        said([entry.distance for entry in others]),
        said([entry.before for entry in naming]),
        said([entry.after for entry in naming]),
        said(drops(one)),
        said(drops(one, names=False)),
    ]


def _beside(experiment: str) -> str:
    """Published numbers of an experiment, or that there is none."""
    rows = [
        [one["what"], f"{one['value']:.2f}", one["model"], one["source"]]
        for one in figures()
        if one["experiment"] == experiment
    ]
    plain = "The paper shows CLIPScores of this experiment as drawings; numbers with intervals were not published."
    if not rows:
        return f"<p>{plain}</p>"
    caption = "Published elsewhere, of the same edit, by other measures: not to be compared number by number"
    return f"<p>{plain}</p>" + table(caption, ["what", "value", "model", "source"], rows, texts=(0, 2, 3))


def _made(found: Reproduced) -> str:
    made = {made for one in found.scores.values() for made in one.made_with}
    rows = [["Version of diff-quickfix", found.version]]
    rows += [["Computed on", one] for one in sorted(made)]
    rows += [[f"Model: {name}", value] for name, value in found.identity.items()]
    settings = [[name, json.dumps(value, ensure_ascii=False)] for name, value in sorted(found.settings.items())]
    return table("What identifies it", ["what", "value"], rows, texts=(0, 1)) + table(
        "Settings", ["setting", "value"], settings, texts=(0, 1)
    )
