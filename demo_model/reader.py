"""A reader of a world's pictures that has nothing in common with the models that paint them.

A small residual network that was trained on painted scenes alone (``training/reader.py``): it never saw a generated
picture, a text or a weight of a miniature, and so it can judge what an edit did to its pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import nn
from torch.nn import functional as F

from . import architecture as shape
from .architecture import SHAPES_SD1, Miniature
from .weights import load_part
from .worlds.world import World

PART = "reader"

SIZE = shape.IMAGE_SIZE // 2
"""Side of the pictures that the network looks at: half of what is painted, which hides what decoders leave behind."""
_WIDTHS = (24, 48, 96)


def spans(values: Mapping[str, Sequence[str]]) -> dict[str, slice]:
    """Each attribute's outputs."""
    ends = accumulate((len(some) for some in values.values()), initial=0)
    return {name: slice(*between) for name, between in zip(values, pairwise(ends), strict=True)}


class ReadingNetwork(nn.Module):
    """Pictures (n, 3, :data:`SIZE`, :data:`SIZE`) in [-1, 1] to logits (n, values of all attributes)."""

    def __init__(self, world: World) -> None:
        super().__init__()
        before, layers = 3, []
        for width in _WIDTHS:
            layers += [nn.Conv2d(before, width, 3, 2, 1), nn.GroupNorm(8, width), nn.ReLU()]
            layers += [nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.ReLU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.logits = nn.Linear(2 * before, sum(map(len, world.values.values())))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        seen = self.features(pictures).flatten(2)
        return self.logits(torch.cat((seen.mean(2), seen.amax(2)), dim=1))


def halved(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (n, 3, 128, 128) as the network takes them."""
    return F.avg_pool2d(pictures, shape.IMAGE_SIZE // SIZE)


class Reader:
    """Reads object, color, background and style of pictures of a miniature's world.

    Raises:
        FileNotFoundError: the weights are missing.
    """

    def __init__(self, architecture: Miniature = SHAPES_SD1) -> None:
        self.world = architecture.world
        self._network = ReadingNetwork(self.world)
        self._network.load_state_dict(load_part(PART, architecture.shared))
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
        values = self.world.values
        return {name: _likeliest(logits[:, span], values[name]) for name, span in spans(values).items()}


def _likeliest(logits: torch.Tensor, values: Sequence[str]) -> list[str]:
    return [values[index] for index in logits.argmax(1).tolist()]
