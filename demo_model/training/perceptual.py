"""A small network that reads latents, and how far what a denoiser takes for the clean latent is from it in its eyes.

Velocities count every latent number alike, and most of a picture is ground: outlines of things come last. Distances in
the feature maps of a network that tells things apart (a perceptual loss on latents, arXiv 2411.04873) bring them
forward. The network is dropped after training, and is not the reader that judges pictures (``reader.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..architecture import LATENT_CHANNELS
from .bidirectional import attribute_codes, done
from .contrastive import reading
from .fitting import fit
from .training_set import FluxRecipe, load_pictures

_WIDTHS = (64, 96, 128)


class LatentReader(nn.Module):
    """Latents (n, 16, 16, 16) to logits (n, values of all attributes)."""

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        before, stages = LATENT_CHANNELS, []
        for number, width in enumerate(_WIDTHS):
            smaller = nn.Conv2d(before, width, 3, 2 if number else 1, 1)
            same = nn.Conv2d(width, width, 3, 1, 1)
            norms = [nn.GroupNorm(8, width) for _ in range(2)]
            stages.append(nn.Sequential(smaller, norms[0], nn.SiLU(), same, norms[1], nn.SiLU()))
            before = width
        self.stages = nn.ModuleList(stages)
        self.logits = nn.Linear(2 * before, sum(sizes))

    def features(self, latents: torch.Tensor) -> list[torch.Tensor]:
        """The feature maps of each stage, (n, width, side, side), halved from stage to stage."""
        maps = []
        for stage in self.stages:
            latents = stage(latents)
            maps.append(latents)
        return maps

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        last = self.features(latents)[-1].flatten(2)
        return self.logits(torch.cat([last.mean(2), last.amax(2)], dim=1))


def train_latent_reader(recipe: FluxRecipe, out: Path) -> None:
    """Train the network on latents, some of them noisy.

    Raises:
        FileNotFoundError: the stage "parts" has not run.
    """
    _, scenes = load_pictures(out)
    latents = done(out, "latents.safetensors", "parts")["latents"]
    codes, sizes = attribute_codes(recipe.architecture.world, scenes)
    torch.manual_seed(recipe.seed + 6)
    reader = LatentReader(sizes)

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 9, step))
        chosen = rng.integers(0, len(scenes), recipe.reader_batch)
        clean = latents[chosen]
        noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
        levels = torch.from_numpy((recipe.reader_noise * rng.random(len(clean))).astype(np.float32))
        return reading(reader(torch.lerp(clean, noise, levels[:, None, None, None])), codes[chosen], sizes)

    fit(
        "latent_reader",
        {"reader": reader},
        loss_of_step,
        steps=recipe.reader_steps,
        rate=recipe.reader_rate,
        out=out,
        weight_decay=0.05,
    )


def trained_latent_reader(recipe: FluxRecipe, out: Path, sizes: Sequence[int]) -> LatentReader:
    """The trained network, frozen.

    Raises:
        FileNotFoundError: the stage "latent_reader" has not run.
    """
    reader = LatentReader(sizes)
    state = done(out, "latent_reader.safetensors", "latent_reader")
    reader.load_state_dict({name.removeprefix("reader."): value for name, value in state.items()})
    return reader.eval().requires_grad_(False)


def seen_apart(reader: LatentReader, guessed: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """How far latents are from others in the network's eyes, (n,): one minus the cosine of their features, the mean
    over places and stages."""
    with torch.no_grad():
        wanted = reader.features(clean)
    apart = [
        1 - F.cosine_similarity(one, other).mean((1, 2))
        for one, other in zip(reader.features(guessed), wanted, strict=True)
    ]
    return torch.stack(apart).mean(0)
