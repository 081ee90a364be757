"""Training of the transformer of Shapes DiT, by flow matching (arXiv 2210.02747, with rectified paths)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..flux import new_transformer, velocity
from .bidirectional import attribute_codes, done, trained_texts
from .contrastive import reading
from .fitting import fit, following
from .perceptual import seen_apart, trained_latent_reader
from .precision import half_precision
from .training_set import FluxRecipe, captions_for_guidance, load_pictures


def drawn_levels(recipe: FluxRecipe, rng: np.random.Generator) -> torch.Tensor:
    """Noise levels (batch,) in [0, 1]: logit-normal, and some evenly spread."""
    logits = rng.normal(recipe.flow_mean, recipe.flow_deviation, recipe.flow_batch)
    even, among = rng.random(recipe.flow_batch), rng.random(recipe.flow_batch) < recipe.flow_uniform
    return torch.from_numpy(np.where(among, even, 1 / (1 + np.exp(-logits))).astype(np.float32))


class Middle(nn.Module):
    """What the image stream says of the picture between the double-stream and the single-stream blocks.

    A small network guesses the vision tower's features at each place (arXiv 2410.06940), and linear readers guess the
    attributes from the stream's mean. Both teach the stream to take from the text what the noise hides, many times
    faster than the velocities alone, and are dropped after training.
    """

    def __init__(self, transformer: Any, features: int, sizes: Sequence[int]) -> None:
        super().__init__()
        width = transformer.inner_dim
        self.features = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, features))
        self.readers = nn.Linear(width, sum(sizes))
        transformer.transformer_blocks[-1].register_forward_hook(self._keep)
        self._stream = torch.zeros(0)

    def _keep(self, block: Any, given: Any, found: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._stream = found[1]

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the transformer's last run: features (n, places, channels), and the readers' guesses (n, values)."""
        return self.features(self._stream), self.readers(self._stream.mean(1))


def train_transformer(recipe: FluxRecipe, out: Path) -> None:
    """Velocities under both frozen text encoders, beside what :class:`Middle` guesses and what a network that reads
    latents sees; keeps an average of the weights.

    Raises:
        FileNotFoundError: an earlier stage has not run.
    """
    _, scenes = load_pictures(out)
    latents = done(out, "latents.safetensors", "parts")["latents"]
    features = done(out, "seen.safetensors", "parts")["features"]
    codes, sizes = attribute_codes(recipe.architecture.world, scenes)
    texts, reader = trained_texts(recipe, out), trained_latent_reader(recipe, out, sizes)
    torch.manual_seed(recipe.seed + 5)
    transformer = new_transformer(recipe.architecture)
    average = copy.deepcopy(transformer).requires_grad_(False)
    middle = Middle(transformer, features.shape[-1], sizes)
    precision = half_precision if recipe.half else nullcontext

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 7, step))
        chosen = rng.integers(0, len(scenes), recipe.flow_batch)
        words, said = captions_for_guidance(
            scenes, chosen, rng, omit=recipe.caption_omit, drop=recipe.flow_drop_caption
        )
        clean = latents[chosen]
        noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
        levels = drawn_levels(recipe, rng)
        noisy = torch.lerp(clean, noise, levels[:, None, None, None])
        with torch.no_grad(), precision():
            states, pooled = texts.condition(words)
        with precision():
            drawn = velocity(transformer, noisy, levels, states, pooled).float()
            seen, guesses = (guess.float() for guess in middle())
            apart = seen_apart(reader, noisy - levels[:, None, None, None] * drawn, clean).float()
        loss = (drawn - (noise - clean)).square().mean()
        loss = loss - recipe.flow_alignment * F.cosine_similarity(seen, features[chosen].float(), dim=-1).mean()
        loss = loss + recipe.flow_seen * ((1 - levels) * apart).mean()
        return loss + recipe.flow_reading * reading(guesses, codes[chosen], sizes, said)

    fit(
        "transformer",
        {"transformer": transformer, "average": average, "middle": middle},
        loss_of_step,
        steps=recipe.flow_steps,
        rate=recipe.flow_rate,
        out=out,
        after_step=following(average, transformer, recipe.flow_ema),
    )
