"""Shapes outside ComfyUI: diffusers and transformers objects, and a plain sampling loop over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from ..text.vocabulary import clip_tokenizer
from . import architecture as shape
from .autoencoder import Autoencoder
from .weights import WEIGHTS, load_part, tokenize


@dataclass(frozen=True)
class ShapesPipeline:
    """The parts: transformers' CLIP tokenizer and text model, diffusers' UNet and scheduler, and the autoencoder."""

    tokenizer: Any
    text_encoder: CLIPTextModel
    unet: Any
    scheduler: Any
    autoencoder: Autoencoder

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text states of shape (n, 77, width)."""
        with torch.no_grad():
            return self.text_encoder(tokenize(self.tokenizer, prompts)).last_hidden_state

    def initial_noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """One latent of noise for each seed, independent of how they are batched."""
        size = (shape.LATENT_CHANNELS, shape.LATENT_SIZE, shape.LATENT_SIZE)
        return torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        steps: int = 20,
        guidance: float = 5.0,
        batch: int = 32,
    ) -> torch.Tensor:
        """Pictures of shape (n, 3, 128, 128) in [0, 1], by DDIM with classifier-free guidance."""
        return torch.cat(list(self._paint(prompts, seeds, steps, guidance, batch)))

    def _paint(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, batch: int
    ) -> Iterator[torch.Tensor]:
        self.scheduler.set_timesteps(steps)
        nothing = self.encode([""])
        for start in range(0, len(prompts), batch):
            states = self.encode(prompts[start : start + batch])
            context = torch.cat([nothing.expand(len(states), -1, -1), states])
            latents = self.initial_noise(seeds[start : start + batch])
            for step in self.scheduler.timesteps:
                unguided, guided = self.unet(torch.cat([latents, latents]), step, context).sample.chunk(2)
                noise = unguided + guidance * (guided - unguided)
                latents = self.scheduler.step(noise, step, latents).prev_sample
            yield self.autoencoder.decode(latents).add(1).div(2).clamp(0, 1)


def load_pipeline(folder: Path = WEIGHTS) -> ShapesPipeline:
    """Shapes in fp32 on the CPU. Needs diffusers and transformers.

    Raises:
        FileNotFoundError: the weights or the CLIP vocabulary are missing.
    """
    from diffusers import DDIMScheduler, UNet2DConditionModel

    text = CLIPTextModel(CLIPTextConfig(**shape.TEXT_CONFIG))
    prefix = "text.text_model."
    state = {k.removeprefix(prefix): v for k, v in load_part("clip", folder).items() if k.startswith(prefix)}
    # transformers 5 dropped the "text_model." level from this class; it is the same module underneath.
    inner = getattr(text, "text_model", text)
    inner.load_state_dict(state)
    unet: Any = UNet2DConditionModel(**shape.UNET_CONFIG)
    unet.load_state_dict(load_part("unet", folder))
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(load_part("autoencoder", folder))
    for module in (text, unet, autoencoder):
        module.eval().requires_grad_(False)
    return ShapesPipeline(clip_tokenizer(), text, unet, DDIMScheduler(**shape.SCHEDULER_CONFIG), autoencoder)
