"""Training of the autoencoder."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..autoencoder import Autoencoder
from .fitting import fit
from .training_set import Recipe, load_pictures, to_signed
from .warm_start import adopt_part

log = logging.getLogger("diff_quickfix.demo_model")


def train_autoencoder(recipe: Recipe, out: Path) -> None:
    """Fit the linear encoder, or take it over, encode the training set with it, and train the decoder on noisy latents.

    The decoder's loss is the absolute error of the pixels and of their differences.
    """
    pictures, _ = load_pictures(out)
    torch.manual_seed(recipe.seed + 1)
    autoencoder = Autoencoder()
    if recipe.warm:
        # The encoder stays as it is, so that latents mean what they mean to the UNet that is also started from.
        adopt_part(autoencoder, recipe, "autoencoder")
    else:
        autoencoder.fit_principal_components(to_signed(pictures[:2000]))
    autoencoder.encoder.requires_grad_(False)
    with torch.no_grad():
        latents = torch.cat(
            [autoencoder.encode(to_signed(pictures[start : start + 256])) for start in range(0, len(pictures), 256)]
        )
    save_file({"latents": latents.contiguous()}, out / "latents.safetensors")
    log.info("encoded %d pictures, latent std %.3f", len(pictures), float(latents.std()))

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 2, step))
        chosen = rng.integers(0, len(pictures), recipe.autoencoder_batch)
        noise = torch.from_numpy(rng.standard_normal(latents[chosen].shape).astype(np.float32))
        drawn = autoencoder.decode(latents[chosen] + recipe.autoencoder_noise * noise)
        error = drawn - to_signed(pictures[chosen])
        return error.abs().mean() + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()

    fit(
        "autoencoder",
        {"autoencoder": autoencoder},
        loss_of_step,
        steps=recipe.autoencoder_steps,
        rate=recipe.autoencoder_rate,
        out=out,
        weight_decay=0.0,
    )
