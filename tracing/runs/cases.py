"""One prompt to trace, and its text states, clean, corrupted and restored, encoded side by side in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from ...families.sites import Site
from .corruption import Corruption
from .interventions import Patch, adding, patching

# Text rows encoded at once; they are small.
_ENCODED_ROWS = 128


@dataclass(frozen=True)
class Case:
    """One prompt to trace.

    Attributes:
        prompt: the text, as painted.
        subject: the words that are corrupted.
        corruption: shifts of the subject's embeddings. A draw beyond those traced is the control's donor.
        encode: encodes the prompt as ``n`` equal rows; (n, tokens, width). It is called with hooks in place.
        columns: for a text trace, the token positions of each column (None: all of them).
        chunks: how many 77-token rows the encoder makes of one prompt.
        chunk: which of them holds the subject.
    """

    prompt: str
    subject: str
    corruption: Corruption
    encode: Callable[[int], torch.Tensor]
    columns: tuple[tuple[int, ...] | None, ...] = ()
    chunks: int = 1
    chunk: int = 0

    def index(self, row: int) -> Sequence[int]:
        """Where the subject's 77 tokens of a row stand in the encoder's batch."""
        return (row * self.chunks + self.chunk,)


@dataclass(frozen=True)
class Restoration:
    """What one text row is: a draw of the corruption (None: clean), and what is put back into it.

    Attributes:
        draw: the draw, or None.
        sites: the names of the sites that are restored.
        positions: the token positions at which; None for all.
        donor: the draw whose states are put in; None for the clean run's.
        severed: names of sites that are held at the corrupted run's states, at all positions.
    """

    draw: int | None
    sites: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None
    donor: int | None = None
    severed: tuple[str, ...] = ()


def encode_rows(
    case: Case, first_layer: nn.Module, sites: Mapping[str, Site], rows: Sequence[Restoration]
) -> torch.Tensor:
    """Text states of several restorations of one prompt, encoded side by side.

    Returns:
        (len(rows), tokens, width).
    """
    draws = case.corruption.draws
    parts = []
    for start in range(0, len(rows), _ENCODED_ROWS):
        part = rows[start : start + _ENCODED_ROWS]
        base = 1 + draws
        deltas = {1 + draw: case.corruption.deltas[draw] for draw in range(draws)}
        patches: list[Patch] = []
        for number, row in enumerate(part):
            if row.draw is not None:
                deltas[base + number] = case.corruption.deltas[row.draw]
                donor = 0 if row.donor is None else 1 + row.donor
                patches += [Patch(site, base + number, donor, row.positions) for site in row.sites]
                patches += [Patch(site, base + number, 1 + row.draw) for site in row.severed]
        with ExitStack() as stack:
            stack.enter_context(adding(first_layer, deltas, case.corruption.positions, index=case.index))
            stack.enter_context(patching(sites, patches, index=case.index))
            parts.append(case.encode(base + len(part))[base:])
    return torch.cat(parts)
