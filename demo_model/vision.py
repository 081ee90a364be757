"""The vision tower of Shapes' CLIP: a small residual network, as in the RN family of the original CLIP."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn import Conv2d, GroupNorm, Linear

WIDTHS = (32, 64, 96)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with group norm; halves the resolution when ``stride`` is 2."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(8, channels_in)
        self.conv1 = Conv2d(channels_in, channels_out, 3, stride, 1)
        self.norm2 = GroupNorm(8, channels_out)
        self.conv2 = Conv2d(channels_out, channels_out, 3, 1, 1)
        self.skip = Conv2d(channels_in, channels_out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.norm1(x))
        hidden = self.conv1(hidden)
        hidden = self.conv2(torch.relu(self.norm2(hidden)))
        return self.skip(x) + hidden


class VisionTower(nn.Module):
    """Pictures to unnormalised CLIP embeddings.

    Forward takes (n, 3, 128, 128) in [-1, 1] and returns (n, projection).
    """

    def __init__(self, projection: int) -> None:
        super().__init__()
        self.stem = Conv2d(3, WIDTHS[0], 6, 4, 1)
        blocks = [ResidualBlock(WIDTHS[0], WIDTHS[0], 1)]
        for before, after in pairwise(WIDTHS):
            blocks.append(ResidualBlock(before, after, 2))
        self.blocks = nn.Sequential(*blocks)
        self.norm = GroupNorm(8, WIDTHS[-1])
        # Means over a 3x3 grid keep a trace of where things are.
        self.projection = Linear(WIDTHS[-1] * 9, projection, bias=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.projection(nn.functional.adaptive_avg_pool2d(self.features(pictures), 3).flatten(1))

    def features(self, pictures: torch.Tensor) -> torch.Tensor:
        """The last feature maps (n, channels, 8, 8), one place for each 16 x 16 pixels."""
        return torch.relu(self.norm(self.blocks(self.stem(pictures))))
