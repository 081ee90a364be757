"""The second axis of a text trace: tokens of one prompt, or places that several prompts share, in each text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ...families.sites import Site
from ...text.subjects import EARLIER, PLACES
from .cases import Spots
from .readings import Reading

Readings = Sequence[Reading[Any]]
"""A prompt as each of its corrupted text encoders reads it."""


@dataclass(frozen=True)
class TextColumns:
    """The columns of a text trace.

    Attributes:
        labels: their names.
        spots: for each prompt and column, the token positions in each text encoder, () where it has none there.
    """

    labels: tuple[str, ...]
    spots: tuple[tuple[Mapping[str, Spots], ...], ...]

    def empty(self, groups: Sequence[Sequence[Site]], prompts: Sequence[Readings]) -> frozenset[tuple[int, int]]:
        """Cells (group, column) in which there is nothing to restore.

        A layer has nothing at a place that a prompt lacks in its text encoder. A pooled vector is of one token or of
        all: it stands in the columns that hold these.
        """
        found = set()
        for row, group in enumerate(groups):
            encoder, pooled = group[0].encoder, group[0].kind == "pooled"
            for column in range(len(self.labels)):
                spots = [one[column][encoder] for one in self.spots]
                readings = [_of(prompt, encoder) for prompt in prompts]
                lacking = any(one == () for one in spots)
                unpooled = pooled and not all(one.pools(spot) for one, spot in zip(readings, spots, strict=True))
                if lacking or unpooled:
                    found.add((row, column))
        return frozenset(found)


def token_columns(prompt: Readings, encoders: Set[str]) -> TextColumns:
    """Each token that can tell of the subject, then the padding.

    Raises:
        ValueError: the encoders cut the prompt into different tokens.
    """
    found = {one.encoder.name: one.columns() for one in prompt if one.encoder.name in encoders}
    (first, (labels, positions)), *others = found.items()
    for name, columns in others:
        if columns != (labels, positions):
            raise ValueError(
                f"The text encoders {first} and {name} cut the prompt into different tokens ({len(labels)} columns and "
                f"{len(columns[0])}). Choose columns: places, or trace the sites of one of them, such as "
                f"sites: text.{name}.*"
            )
    return TextColumns(labels, (tuple(dict.fromkeys(found, spot) for spot in positions),))


def place_columns(prompts: Sequence[Readings], encoders: Set[str], *, every: bool = False) -> TextColumns:
    """The roles that no prompt lacks in some text encoder.

    Args:
        every: also those that a prompt happens to lack, so that traces of any prompts have the same columns; only
            what no prompt has in such encoders is left out.
    """
    readings = [{name: _of(prompt, name).places() for name in encoders} for prompt in prompts]
    labels = tuple(
        place
        for place in (EARLIER, *PLACES)
        if any(all(one[name][place] != () for one in readings) for name in encoders)
        or (every and (place != EARLIER or not all(one.encoder.stack.causal for one in prompts[0])))
    )
    spots = tuple(tuple({name: one[name][place] for name in encoders} for place in labels) for one in readings)
    return TextColumns(labels, spots)


def _of(prompt: Readings, encoder: str) -> Reading[Any]:
    return next(one for one in prompt if one.encoder.name == encoder)
