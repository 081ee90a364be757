"""One prompt to trace, and its text states, clean, corrupted and restored, encoded side by side in one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...families.sites import Site
from .corruption import Corruption
from .interventions import InterventionError, Patch, adding, patching

# Text rows encoded at once; they are small.
_ENCODED_ROWS = 128

Spots = tuple[int, ...] | None
"""Token positions; None: all of them."""
Columns = Spots | Mapping[str, Spots]
"""Token positions, or those in each of several text encoders by its name."""


def unchanged(states: torch.Tensor) -> Any:
    """The rows as they were encoded."""
    return states


@dataclass(frozen=True)
class Share:
    """What one text encoder is given of a prompt.

    Attributes:
        encoder: its name in the names of its sites; "" where it is the only one.
        corruption: shifts of the subject's embeddings in it.
        entry: where the embeddings enter (see :func:`~.interventions.adding`).
        chunks: how many parts, each a row of the encoder's batch, one prompt is cut into.
        chunk: which of them holds the subject.
    """

    encoder: str
    corruption: Corruption
    entry: nn.Module
    chunks: int = 1
    chunk: int = 0

    def index(self, row: int) -> Sequence[int]:
        """Where the part with the subject stands in the encoder's batch."""
        return (row * self.chunks + self.chunk,)


@dataclass(frozen=True)
class Case:
    """One prompt to trace.

    Attributes:
        prompt: the text, as painted.
        subject: the words that are corrupted.
        shares: the text encoders in which the subject is corrupted, at least one, all with as many draws. A draw beyond
            those traced is the control's donor.
        encode: encodes the prompt as ``n`` equal rows; (n, tokens, width). It is called with hooks in place.
        columns: for a text trace, the token positions of each column (None: all of them).
        given: makes of encoded rows what the painter is given.
    """

    prompt: str
    subject: str
    shares: tuple[Share, ...]
    encode: Callable[[int], torch.Tensor]
    columns: tuple[Columns, ...] = ()
    given: Callable[[torch.Tensor], Any] = unchanged

    @property
    def draws(self) -> int:
        """How many draws the corruption has."""
        return self.shares[0].corruption.draws


@dataclass(frozen=True)
class Restoration:
    """What one text row is: a draw of the corruption (None: clean), and what is put back into it.

    Attributes:
        draw: the draw, or None.
        sites: the names of the sites that are restored.
        positions: the token positions at which, in each encoder where there are several; None for all.
        donor: the draw whose states are put in; None for the clean run's.
        severed: names of sites that are held at the corrupted run's states, at all positions.
    """

    draw: int | None
    sites: tuple[str, ...] = ()
    positions: Columns = None
    donor: int | None = None
    severed: tuple[str, ...] = ()


def spots_in(columns: Columns, encoder: str) -> Spots:
    """The token positions in one text encoder."""
    return columns[encoder] if isinstance(columns, Mapping) else columns


def encode_rows(case: Case, sites: Mapping[str, Site], rows: Sequence[Restoration]) -> torch.Tensor:
    """Text states of several restorations of one prompt, encoded side by side.

    Returns:
        (len(rows), tokens, width), or what else ``case.encode`` makes of each row.

    Raises:
        InterventionError: a site of a text encoder that is not corrupted, or one that did not run.
    """
    base, encoders = 1 + case.draws, {share.encoder for share in case.shares}
    parts = []
    for start in range(0, len(rows), _ENCODED_ROWS):
        part = rows[start : start + _ENCODED_ROWS]
        patches = _patches(part, base, sites)
        foreign = [patch.site for patch in patches if sites[patch.site].encoder not in encoders]
        if foreign:
            raise InterventionError(f"{foreign[0]} is in a text encoder that is not corrupted; it cannot be restored.")
        with ExitStack() as stack:
            for share in case.shares:
                own = [patch for patch in patches if sites[patch.site].encoder == share.encoder]
                corruption = share.corruption
                deltas = {1 + draw: corruption.deltas[draw] for draw in range(corruption.draws)}
                corrupted = [(base + number, row.draw) for number, row in enumerate(part) if row.draw is not None]
                deltas |= {row: corruption.deltas[draw] for row, draw in corrupted}
                stack.enter_context(adding(share.entry, deltas, corruption.positions, index=share.index))
                stack.enter_context(patching(sites, own, index=share.index))
            parts.append(case.encode(base + len(part))[base:])
    return torch.cat(parts)


def _patches(rows: Sequence[Restoration], base: int, sites: Mapping[str, Site]) -> list[Patch]:
    """What is copied between the rows of a batch: the clean one, the draws of the corruption, and from ``base`` on
    those that restore."""
    patches: list[Patch] = []
    for number, row in enumerate(rows, base):
        if row.draw is None:
            continue
        donor = 0 if row.donor is None else 1 + row.donor
        for name in row.sites:
            # A vector of the whole prompt has no positions.
            spots = None if sites[name].kind == "pooled" else spots_in(row.positions, sites[name].encoder)
            patches.append(Patch(name, number, donor, spots))
        patches += [Patch(name, number, 1 + row.draw) for name in row.severed]
    return patches
