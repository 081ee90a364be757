"""The difference of two traces, and how alike they rank their cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .statistics import spearman
from .trace import CausalTrace, TraceError


@dataclass(frozen=True, eq=False)
class Comparison:
    """The difference of two traces where they share sites and columns; (L, K)."""

    sites: tuple[str, ...]
    columns: tuple[str, ...]
    difference: torch.Tensor
    score: str
    alone: tuple[tuple[int, int], tuple[int, int]]
    """How many sites and columns the first trace has alone, and the other."""

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

    first, second = (
        (len(set(trace.sites) - set(sites)), len(set(trace.columns) - set(columns))) for trace in (one, other)
    )
    return Comparison(sites, columns, shared(one) - shared(other), one.score, (first, second))


def rank_correlation(one: CausalTrace, other: CausalTrace) -> float:
    """Spearman's correlation of two traces' average indirect effects over the cells that both measured; (-1, 1).

    Raises:
        TraceError: the traces have other sites or columns.
    """
    if (one.sites, one.columns) != (other.sites, other.columns):
        raise TraceError("Ranks are compared over the same sites and columns; these traces have different ones.")
    return spearman(one.average_indirect_effect(), other.average_indirect_effect())
