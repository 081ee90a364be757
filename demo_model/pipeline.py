"""Shapes and Shapes XL outside ComfyUI: diffusers and transformers objects, and a plain sampling loop over them.

What every miniature does there is :class:`Painter`; Shapes DiT is in :mod:`.flux`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from ..text.vocabulary import clip_tokenizer
from . import architecture as shape
from .architecture import SHAPES_SD1, SHAPES_XL, Architecture, Miniature
from .autoencoder import Autoencoder
from .clip import Clip, load_clip
from .weights import load_part, tokenize


@dataclass(frozen=True)
class Conditioning:
    """What an image model reads of prompts: states (n, tokens, width), and diffusers' further inputs of n rows."""

    states: torch.Tensor
    added: dict[str, torch.Tensor]

    def beside(self, nothing: Conditioning) -> Conditioning:
        """Rows of the empty prompt, then these."""
        rows = len(self.states)
        return Conditioning(
            torch.cat([nothing.states.expand(rows, -1, -1), self.states]),
            {name: torch.cat([nothing.added[name].expand(rows, -1), value]) for name, value in self.added.items()},
        )


@dataclass(frozen=True)
class Painter(ABC):
    """What all miniatures share: CLIP's tokenizer, the autoencoder, and how pictures are made."""

    tokenizer: Any
    autoencoder: Autoencoder

    denoiser_name: ClassVar[str]
    """The field that holds the image model."""
    pooled_name: ClassVar[str] = ""
    """Under which name a conditioning holds the pooled vectors; "" where the image model reads none."""

    @property
    def denoiser(self) -> Any:
        """The image model, as diffusers has it."""
        return getattr(self, self.denoiser_name)

    def with_denoiser(self, denoiser: Any) -> Self:
        """The same with another image model."""
        return dataclasses.replace(self, **{self.denoiser_name: denoiser})

    @abstractmethod
    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """What the image model reads of prompts."""

    @abstractmethod
    def denoised(self, latents: torch.Tensor, given: Conditioning, steps: int, guidance: float) -> torch.Tensor:
        """Sample from noise.

        Args:
            latents: the noise, (n, 16, 16, 16).
            given: rows of the empty prompt, then of each latent's own prompt (:meth:`Conditioning.beside`).

        Returns:
            Latents like ``latents``, by classifier-free guidance.
        """

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
        """Pictures of shape (n, 3, 128, 128) in [0, 1]."""
        return torch.cat(list(self._paint(prompts, seeds, steps, guidance, batch)))

    def _paint(
        self, prompts: Sequence[str], seeds: Sequence[int], steps: int, guidance: float, batch: int
    ) -> Iterator[torch.Tensor]:
        nothing = self.condition([""])
        for start in range(0, len(prompts), batch):
            given = self.condition(prompts[start : start + batch]).beside(nothing)
            latents = self.denoised(self.initial_noise(seeds[start : start + batch]), given, steps, guidance)
            yield self.autoencoder.decode(latents).add(1).div(2).clamp(0, 1)


@dataclass(frozen=True)
class UNetPainter(Painter):
    """A miniature that paints with diffusers' UNet and DDIM."""

    unet: Any
    scheduler: Any

    denoiser_name = "unet"

    def denoised(self, latents: torch.Tensor, given: Conditioning, steps: int, guidance: float) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        for step in self.scheduler.timesteps:
            both = torch.cat([latents, latents])
            drawn = self.unet(both, step, given.states, added_cond_kwargs=given.added or None).sample
            unguided, guided = drawn.chunk(2)
            noise = unguided + guidance * (guided - unguided)
            latents = self.scheduler.step(noise, step, latents).prev_sample
        return latents


@dataclass(frozen=True)
class ShapesPipeline(UNetPainter):
    """Shapes, with transformers' CLIP text model."""

    text_encoder: CLIPTextModel

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text states of shape (n, 77, width)."""
        with torch.no_grad():
            return self.text_encoder(tokenize(self.tokenizer, prompts)).last_hidden_state

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning(self.encode(prompts), {})


@dataclass(frozen=True)
class ShapesXLPipeline(UNetPainter):
    """Shapes XL, with both of its text towers."""

    clip: Clip

    pooled_name = "text_embeds"

    @torch.no_grad()
    def condition(self, prompts: Sequence[str]) -> Conditioning:
        states, pooled = self.clip.condition(self.tokenizer, prompts)
        assert pooled is not None
        side = shape.IMAGE_SIZE
        sizes = torch.tensor([side, side, 0, 0, side, side]).expand(len(prompts), -1)
        return Conditioning(states, {"text_embeds": pooled, "time_ids": sizes})


def load_pipeline(architecture: Architecture = SHAPES_SD1) -> ShapesPipeline:
    """Shapes in fp32 on the CPU. Needs diffusers and transformers.

    Raises:
        FileNotFoundError: the weights or the CLIP vocabulary are missing.
    """
    text = CLIPTextModel(CLIPTextConfig(**architecture.texts["text"].config))
    prefix = "text.text_model."
    state = load_part("clip", architecture.folder)
    # transformers 5 dropped the "text_model." level from this class; it is the same module underneath.
    inner = getattr(text, "text_model", text)
    inner.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    return ShapesPipeline(*_unet_parts(architecture), text.eval().requires_grad_(False))


def load_xl_pipeline(architecture: Architecture = SHAPES_XL) -> ShapesXLPipeline:
    """Shapes XL in fp32 on the CPU. Needs diffusers and transformers.

    Raises:
        FileNotFoundError: the weights or the CLIP vocabulary are missing.
    """
    return ShapesXLPipeline(*_unet_parts(architecture), load_clip(architecture))


def _unet_parts(architecture: Architecture) -> tuple[Any, Autoencoder, Any, Any]:
    """The fields of :class:`UNetPainter`."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    unet: Any = UNet2DConditionModel(**architecture.unet)
    unet.load_state_dict(load_part("unet", architecture.folder))
    unet.eval().requires_grad_(False)
    return clip_tokenizer(), load_autoencoder(architecture), unet, DDIMScheduler(**shape.SCHEDULER_CONFIG)


def load_autoencoder(architecture: Miniature) -> Autoencoder:
    """The autoencoder of a miniature's world, frozen, in fp32 on the CPU.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    autoencoder = Autoencoder()
    autoencoder.load_state_dict(load_part("autoencoder", architecture.shared))
    return autoencoder.eval().requires_grad_(False)
