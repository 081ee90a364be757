"""The example pictures that were painted with a trace: which cells they show, and how to know them again."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Clean and corrupted come before the restored ones.
UNRESTORED = 2
MOST_CELLS = 512
_DIGEST = r"[0-9a-f]{32}"


@dataclass(frozen=True)
class Examples:
    """Pictures of a trace's first prompt, seed and draw: clean, corrupted, and one restored at each of some cells.

    Attributes:
        cells: (row, column) among the trace's sites and columns, the largest average indirect effect first.
        digests: of the pictures in that order (see :func:`digest`), 2 + len(cells).

    Raises:
        ValueError: counts differ, a cell stands twice, or something is no cell or no digest.
    """

    cells: tuple[tuple[int, int], ...]
    digests: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.digests) != UNRESTORED + len(self.cells):
            raise ValueError(f"examples of {len(self.cells)} cells have {len(self.digests)} digests")
        if len(self.cells) > MOST_CELLS or len(set(self.cells)) != len(self.cells):
            raise ValueError(f"examples show {len(self.cells)} cells; expected at most {MOST_CELLS}, each once")
        if any(len(cell) != 2 or any(type(place) is not int or place < 0 for place in cell) for cell in self.cells):
            raise ValueError("examples name a cell that is no pair of a row and a column")
        if not all(isinstance(found, str) and re.fullmatch(_DIGEST, found) for found in self.digests):
            raise ValueError("examples hold a digest that is none")

    def labels(self) -> dict[str, Any]:
        """As JSON values."""
        return {"cells": [list(cell) for cell in self.cells], "digests": list(self.digests)}

    @classmethod
    def from_labels(cls, labels: Any) -> Examples:
        """The inverse of :meth:`labels`, for values from anywhere.

        Raises:
            ValueError: they are no labels of examples.
        """
        try:
            return cls(tuple(tuple(cell) for cell in labels["cells"]), tuple(labels["digests"]))
        except (TypeError, KeyError):
            raise ValueError("the examples' labels are missing or of another type") from None

    def places(self, pictures: torch.Tensor) -> tuple[int | None, ...]:
        """Where each example stands in a batch of pictures (n, height, width, 3) in any order; None where it does not.

        Pictures that went through an 8-bit file are known again.
        """
        found: dict[str, int] = {}
        for number, picture in enumerate(pictures):
            for levels in (_cut(picture), _rounded(picture)):
                found.setdefault(_digest(levels), number)
        return tuple(found.get(one) for one in self.digests)


def examples_of(cells: Sequence[tuple[int, int]], pictures: torch.Tensor) -> Examples:
    """The record of pictures (2 + len(cells), height, width, 3) in [0, 1]: clean, corrupted, then each cell's."""
    return Examples(tuple(cells), tuple(digest(picture) for picture in pictures))


def digest(picture: torch.Tensor) -> str:
    """A digest of a picture (height, width, 3) in [0, 1], by its levels as ComfyUI writes them into a file."""
    return _digest(_cut(picture))


def _cut(picture: torch.Tensor) -> torch.Tensor:
    return (picture.detach().float().cpu().nan_to_num() * 255).clamp(0, 255).to(torch.uint8)


def _rounded(picture: torch.Tensor) -> torch.Tensor:
    return (picture.detach().float().cpu().nan_to_num() * 255).round().clamp(0, 255).to(torch.uint8)


def _digest(levels: torch.Tensor) -> str:
    return hashlib.blake2b(str(tuple(levels.shape)).encode() + levels.numpy().tobytes(), digest_size=16).hexdigest()
