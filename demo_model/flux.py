"""Shapes DiT outside ComfyUI: diffusers' Flux transformer, and Euler steps along the velocities that it draws.

A latent at noise level t is (1 - t) x + t noise, and the velocity noise - x (arXiv 2210.02747). Four latent pixels of a
2 x 2 square are one token of the transformer, channel by channel, as in Flux.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from ..text.vocabulary import clip_tokenizer
from .architecture import SHAPES_DIT, FluxArchitecture
from .pipeline import Conditioning, Painter, load_autoencoder
from .t5 import DiTTexts, load_texts
from .weights import load_part

_PATCH = 2


def velocity(
    transformer: Any, latents: torch.Tensor, levels: torch.Tensor, states: torch.Tensor, pooled: torch.Tensor
) -> torch.Tensor:
    """The velocities (n, c, h, w) at latents of that shape.

    Args:
        transformer: diffusers' FluxTransformer2DModel without guidance.
        levels: noise levels (n,) in [0, 1].
        states: text states (n, tokens, width), all at position 0.
        pooled: pooled vectors (n, width).
    """
    height, width = (side // _PATCH for side in latents.shape[-2:])
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).flatten(0, 1)
    drawn = transformer(
        hidden_states=_packed(latents),
        timestep=levels,
        encoder_hidden_states=states,
        pooled_projections=pooled,
        img_ids=places.float(),
        txt_ids=torch.zeros(states.shape[1], 3),
    ).sample
    return _unpacked(drawn, height)


def _packed(latents: torch.Tensor) -> torch.Tensor:
    """(n, c, h, w) as tokens (n, h/2 w/2, 4c)."""
    squares = latents.unfold(2, _PATCH, _PATCH).unfold(3, _PATCH, _PATCH)
    return squares.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


def _unpacked(tokens: torch.Tensor, height: int) -> torch.Tensor:
    """Inverse of :func:`_packed`; ``height`` in squares."""
    squares = tokens.unflatten(2, (-1, _PATCH, _PATCH)).unflatten(1, (height, -1))
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def noise_levels(steps: int, shift: float) -> torch.Tensor:
    """Levels (steps + 1,) from 1 to 0, evenly spaced and then moved towards noise by ``shift``, as ComfyUI's scheduler
    "simple" gives them to Flux.1."""
    even, factor = torch.linspace(1, 0, steps + 1), math.exp(shift)
    return factor * even / (1 + (factor - 1) * even)


@dataclass(frozen=True)
class ShapesDiTPipeline(Painter):
    """Shapes DiT, with both of its text encoders."""

    texts: DiTTexts
    transformer: Any
    shift: float

    denoiser_name, pooled_name = "transformer", "pooled_projections"

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Conditioning:
        states, pooled = self.texts.condition(prompts)
        return Conditioning(states, {"pooled_projections": pooled})

    def denoised(self, latents: torch.Tensor, given: Conditioning, steps: int, guidance: float) -> torch.Tensor:
        for level, later in pairwise(noise_levels(steps, self.shift)):
            both = torch.cat([latents, latents])
            pooled = given.added["pooled_projections"]
            unguided, guided = velocity(self.transformer, both, level.expand(len(both)), given.states, pooled).chunk(2)
            latents = latents + (later - level) * (unguided + guidance * (guided - unguided))
        return latents


def load_dit_pipeline(architecture: FluxArchitecture = SHAPES_DIT) -> ShapesDiTPipeline:
    """Shapes DiT in fp32 on the CPU. Needs diffusers and transformers.

    Raises:
        FileNotFoundError: the weights or a vocabulary are missing.
    """
    transformer = new_transformer(architecture)
    transformer.load_state_dict(load_part("transformer", architecture.folder))
    transformer.eval().requires_grad_(False)
    autoencoder, texts = load_autoencoder(architecture), load_texts(architecture)
    return ShapesDiTPipeline(clip_tokenizer(), autoencoder, texts, transformer, architecture.shift)


def new_transformer(architecture: FluxArchitecture = SHAPES_DIT) -> Any:
    """The transformer with weights that nobody trained."""
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(**architecture.transformer)
