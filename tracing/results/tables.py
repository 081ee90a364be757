"""A causal trace as tables: every score, or what is said of every cell, as CSV.

Text that a spreadsheet would take for a formula is given a leading apostrophe.
"""

from __future__ import annotations

import csv
import io
import itertools

from .judgement import judge
from .trace import CausalTrace

# Full-width forms too: some spreadsheets take them for the plain ones.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")


def trace_table(trace: CausalTrace) -> str:
    """Every score as a table, one row for each restored run."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        (
            "prompt",
            "subject",
            "seed",
            "draw",
            "site",
            trace.column_axis,
            "clean",
            "corrupted",
            "restored",
            "indirect_effect",
            "total_effect",
        )
    )
    prompts, subjects, sites, columns = (
        [_plain(text) for text in texts] for texts in (trace.prompts, trace.subjects, trace.sites, trace.columns)
    )
    clean, corrupted, total = trace.clean.tolist(), trace.corrupted.tolist(), trace.total_effects().tolist()
    scores = zip(trace.restored.flatten().tolist(), trace.indirect_effects().flatten().tolist(), strict=True)
    cells = itertools.product(*(range(count) for count in trace.restored.shape))
    for (p, s, d, row, column), (restored, effect) in zip(cells, scores, strict=True):
        writer.writerow(
            (
                prompts[p],
                subjects[p],
                trace.seeds[s],
                d,
                sites[row],
                columns[column],
                clean[p][s],
                corrupted[p][s][d],
                restored,
                effect,
                total[p][s][d],
            )
        )
    return out.getvalue()


def cell_table(trace: CausalTrace) -> str:
    """One row for each cell: its average indirect effect and all that is claimed of it (see
    :class:`~.judgement.Judgement`); empty where nothing can be said."""
    judgement = judge(trace)
    numbers = {
        "indirect_effect": trace.average_indirect_effect(),
        "low": judgement.low,
        "high": judgement.high,
        "recovery": trace.recovery(),
        "beats_control": judgement.verdict,
        "p": judgement.p,
        "q": judgement.q,
        "first_in_resamples": judgement.first,
    }
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(("site", trace.column_axis, *numbers))
    labels = itertools.product(map(_plain, trace.sites), map(_plain, trace.columns))
    for label, *values in zip(labels, *(cells.flatten().tolist() for cells in numbers.values()), strict=True):
        writer.writerow((*label, *("" if value != value else value for value in values)))
    return out.getvalue()


def _plain(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return f"'{text}" if text.startswith(_FORMULA) else text
