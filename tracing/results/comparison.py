"""The difference of two traces, and how alike they rank their cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .statistics import spearman
from .trace import CausalTrace, TraceError


@dataclass(frozen=True, eq=False)
class Comparison:
    """The difference of two traces where they share sites and columns; (L, K).

    Attributes:
        correlation: Spearman's, of the effects in the shared cells; NaN where either has only one value.
        score: what both measured.
        alone: how many sites and columns the first trace has alone, and the other.
    """

    sites: tuple[str, ...]
    columns: tuple[str, ...]
    difference: torch.Tensor
    correlation: float
    score: str
    alone: tuple[tuple[int, int], tuple[int, int]]

    def text(self) -> str:
        """What is compared, and what is left out because only one trace has it."""
        said = f"{len(self.sites)} sites and {len(self.columns)} columns are shared."
        for which, (sites, columns) in zip(("first", "other"), self.alone, strict=True):
            if sites or columns:
                said += f" Left out, as the {which} trace alone has them: {sites} sites, {columns} columns."
        return said


def compare(one: CausalTrace, other: CausalTrace) -> Comparison:
    """Average indirect effect of one trace minus another's, on their common cells.

    Raises:
        TraceError: they share no cell, or measured different scores.
    """
    if one.score != other.score:
        raise TraceError(f"The traces measured different things: {one.score!r} and {other.score!r}.")
    sites = tuple(site for site in dict.fromkeys(one.sites) if site in other.sites)
    columns = tuple(column for column in dict.fromkeys(one.columns) if column in other.columns)
    if not sites or not columns:
        raise TraceError("The two traces share no site and column; there is nothing to compare.")

    def shared(trace: CausalTrace) -> torch.Tensor:
        rows = [trace.sites.index(site) for site in sites]
        return trace.average_indirect_effect()[rows][:, [trace.columns.index(column) for column in columns]]

    mine, others = shared(one), shared(other)
    first, second = (
        (len(set(trace.sites) - set(sites)), len(set(trace.columns) - set(columns))) for trace in (one, other)
    )
    return Comparison(sites, columns, mine - others, spearman(mine, others), one.score, (first, second))


def rank_correlation(one: CausalTrace, other: CausalTrace) -> float:
    """Spearman's correlation of two traces' average indirect effects over the cells that both measured; (-1, 1).

    Raises:
        TraceError: the traces have other sites or columns.
    """
    if (one.sites, one.columns) != (other.sites, other.columns):
        raise TraceError("Ranks are compared over the same sites and columns; these traces have different ones.")
    return spearman(one.average_indirect_effect(), other.average_indirect_effect())


def rank_agreement(trace: CausalTrace, values: Mapping[str, float]) -> float:
    """Spearman's correlation of the average indirect effects of a trace's sites, each at its best column, with other
    numbers of the same sites, such as attention contributions; (-1, 1).

    Raises:
        TraceError: fewer than two sites of the trace have such a number.
    """
    effects = trace.average_indirect_effect().nan_to_num(-torch.inf).amax(1)
    rows = [row for row, site in enumerate(trace.sites) if site in values and effects[row] > -torch.inf]
    if len(rows) < 2:
        raise TraceError(f"Ranks are compared over two sites or more; the trace shares {len(rows)} with the numbers.")
    return spearman(effects[rows], torch.tensor([values[trace.sites[row]] for row in rows]))
