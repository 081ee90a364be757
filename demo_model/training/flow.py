"""Training of the transformer of Shapes DiT, by flow matching (arXiv 2210.02747, with rectified paths)."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from ..flux import new_transformer, velocity
from .bidirectional import done, trained_texts
from .fitting import fit, following
from .precision import half_precision
from .training_set import FluxRecipe, captions_for_guidance, load_pictures


def drawn_levels(recipe: FluxRecipe, rng: np.random.Generator) -> torch.Tensor:
    """Noise levels (batch,) in [0, 1]: logit-normal, and some evenly spread."""
    logits = rng.normal(recipe.flow_mean, recipe.flow_deviation, recipe.flow_batch)
    even, among = rng.random(recipe.flow_batch), rng.random(recipe.flow_batch) < recipe.flow_uniform
    return torch.from_numpy(np.where(among, even, 1 / (1 + np.exp(-logits))).astype(np.float32))


def train_transformer(recipe: FluxRecipe, out: Path) -> None:
    """Velocities under both frozen text encoders; keeps an average of the weights.

    Raises:
        FileNotFoundError: an earlier stage has not run.
    """
    _, scenes = load_pictures(out)
    latents = done(out, "latents.safetensors", "parts")["latents"]
    texts = trained_texts(recipe, out)
    torch.manual_seed(recipe.seed + 5)
    transformer = new_transformer(recipe.architecture)
    average = copy.deepcopy(transformer).requires_grad_(False)
    precision = half_precision if recipe.half else nullcontext

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 7, step))
        chosen = rng.integers(0, len(scenes), recipe.flow_batch)
        words = captions_for_guidance(scenes, chosen, rng, omit=recipe.caption_omit, drop=recipe.flow_drop_caption)
        clean = latents[chosen]
        noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
        levels = drawn_levels(recipe, rng)
        noisy = torch.lerp(clean, noise, levels[:, None, None, None])
        with torch.no_grad(), precision():
            states, pooled = texts.condition(words)
        with precision():
            drawn = velocity(transformer, noisy, levels, states, pooled).float()
        return (drawn - (noise - clean)).square().mean()

    fit(
        "transformer",
        {"transformer": transformer, "average": average},
        loss_of_step,
        steps=recipe.flow_steps,
        rate=recipe.flow_rate,
        out=out,
        after_step=following(average, transformer, recipe.flow_ema),
    )
