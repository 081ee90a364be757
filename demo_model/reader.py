"""A reader of Shapes' pictures that has nothing in common with the model that paints them.

A small residual network that was trained on painted scenes alone (``training/reader.py``): it never saw a generated
picture, a text or a weight of Shapes, and so it can judge what an edit of Shapes' text encoder did to its pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from . import architecture as shape
from .scenes import BACKGROUNDS, COLORS, OBJECTS, PLAIN, STYLES
from .weights import WEIGHTS, load_part

VALUES: dict[str, tuple[str, ...]] = {
    "object": OBJECTS,
    "color": tuple(COLORS),
    "background": tuple(BACKGROUNDS),
    "style": (*STYLES, PLAIN),
}
"""What the reader tells apart: attribute to its values, in the order of the network's outputs."""

PART = "reader"
_ENDS = tuple(accumulate((len(values) for values in VALUES.values()), initial=0))
SPANS = {name: slice(*ends) for name, ends in zip(VALUES, pairwise(_ENDS), strict=True)}
"""Each attribute's outputs."""


SIZE = shape.IMAGE_SIZE // 2
"""Side of the pictures that the network looks at: half of what is painted, which hides what decoders leave behind."""
_WIDTHS = (24, 48, 96)


class ReadingNetwork(nn.Module):
    """Pictures (n, 3, :data:`SIZE`, :data:`SIZE`) in [-1, 1] to logits (n, values of all attributes)."""

    def __init__(self) -> None:
        super().__init__()
        before, layers = 3, []
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.logits = nn.Linear(2 * before, _ENDS[-1])

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        seen = self.features(pictures).flatten(2)
        return self.logits(torch.cat((seen.mean(2), seen.amax(2)), dim=1))


def halved(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, 128, 128) as the network takes them."""
    return F.avg_pool2d(pictures, shape.IMAGE_SIZE // SIZE)


class Reader:
    """Reads object, color, background and style of pictures.

    Raises:
        FileNotFoundError: the weights are missing.
    """

    def __init__(self, folder: Path = WEIGHTS) -> None:
        self._network = ReadingNetwork()
        self._network.load_state_dict(load_part(PART, folder))
        self._network.eval().requires_grad_(False)

    @torch.no_grad()
    def read(self, pictures: torch.Tensor, *, batch: int = 64) -> dict[str, list[str]]:
        """The likeliest value of each attribute for pictures (n, 3, 128, 128) in [0, 1].

        Raises:
            ValueError: pictures of another shape.
        """
        expected = (3, shape.IMAGE_SIZE, shape.IMAGE_SIZE)
        if pictures.ndim != 4 or pictures.shape[1:] != expected:
            raise ValueError(f"Pictures have shape {tuple(pictures.shape)}; the reader takes (n, 3, 128, 128).")
        logits = torch.cat([self._network(halved(part.float() * 2 - 1)) for part in pictures.split(batch)])
        return {name: _likeliest(logits[:, span], VALUES[name]) for name, span in SPANS.items()}


def _likeliest(logits: torch.Tensor, values: Sequence[str]) -> list[str]:
    return [values[index] for index in logits.argmax(1).tolist()]
