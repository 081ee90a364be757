"""Shapes' CLIP, as trained: a text tower with CLIP's own architecture and a small convolutional vision tower."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from . import architecture as shape
from .vision import VisionTower
from .weights import WEIGHTS, load_part


class Clip(torch.nn.Module):
    """Both towers and the temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**shape.TEXT_CONFIG))
        self.vision = VisionTower(shape.PROJECTION)
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))


def load_clip(folder: Path = WEIGHTS) -> Clip:
    """The shipped towers, frozen, in fp32 on the CPU."""
    clip = Clip().eval().requires_grad_(False)
    clip.load_state_dict(load_part("clip", folder))
    return clip
