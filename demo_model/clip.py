"""The miniatures' CLIPs, as trained: text towers with CLIP's own architecture and a convolutional vision tower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from .architecture import SHAPES_SD1, Architecture
from .vision import VisionTower
from .weights import load_part, tokenize


class Clip(torch.nn.Module):
    """All towers and the temperature."""

    def __init__(self, architecture: Architecture = SHAPES_SD1) -> None:
        super().__init__()
        self._architecture = architecture
        for name, tower in architecture.texts.items():
            self.add_module(name, CLIPTextModelWithProjection(CLIPTextConfig(**tower.config)))
        self.vision = VisionTower(architecture.projection)
        self.logit_scale = torch.nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def text_towers(self) -> list[CLIPTextModelWithProjection]:
        """The text towers in the architecture's order."""
        return [cast(CLIPTextModelWithProjection, self.get_submodule(name)) for name in self._architecture.texts]

    def embed_texts(self, tokenizer: Any, texts: Sequence[str]) -> list[torch.Tensor]:
        """Each text tower's embeddings (n, projection) of texts, not normalised."""
        tokens = tokenize(tokenizer, texts, length=None)
        return [tower(input_ids=tokens).text_embeds for tower in self.text_towers()]

    def condition(self, tokenizer: Any, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the UNet reads of texts: states (n, 77, width), and the pooled vector (n, projection) or None."""
        states, pooled = [], None
        for (name, tower), model in zip(self._architecture.texts.items(), self.text_towers(), strict=True):
            tokens = tokenize(tokenizer, texts, pad=tower.pad)
            read = model(input_ids=tokens, output_hidden_states=self._architecture.state != -1)
            last = self._architecture.state == -1
            states.append(read.last_hidden_state if last else read.hidden_states[self._architecture.state])
            if name == self._architecture.pooled:
                pooled = read.text_embeds
        return torch.cat(states, dim=-1), pooled


def load_clip(architecture: Architecture = SHAPES_SD1) -> Clip:
    """The shipped towers, frozen, in fp32 on the CPU."""
    clip = Clip(architecture).eval().requires_grad_(False)
    state = load_part("clip", architecture.folder)
    if architecture.shared != architecture.folder:
        state |= load_part("vision", architecture.shared)
    clip.load_state_dict(state)
    return clip
