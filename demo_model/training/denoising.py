"""Training of the UNets."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from ...text.vocabulary import clip_tokenizer
from .. import architecture as shape
from .contrastive import trained_clip
from .fitting import fit, following
from .precision import half_precision
from .training_set import Recipe, captions_for_guidance, load_pictures
from .warm_start import adopt_part

# Shapes XL has no level as coarse as Shapes' last, so that its ascending levels are the old ones from the second on.
_RENAMED = {rf"up_blocks\.{new}\.": f"up_blocks.{new + 1}." for new in (2, 1, 0)}


def started_unet(recipe: Recipe) -> Any:
    """A UNet at the beginning of its training."""
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(**recipe.architecture.unet)
    adopt_part(unet, recipe, "unet", _RENAMED)
    if recipe.warm and unet.add_embedding is not None:
        # What the new model reads beside the old one's inputs is silent at first.
        torch.nn.init.zeros_(unet.add_embedding.linear_2.weight)
        torch.nn.init.zeros_(unet.add_embedding.linear_2.bias)
    return unet


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's scaled-linear noise schedule, (1000,)."""
    config = shape.SCHEDULER_CONFIG
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, 0)


def _sizes(recipe: Recipe, rng: np.random.Generator) -> torch.Tensor:
    """Heights, widths and crops beside the pooled text, (batch, 6); some are arbitrary, so that none does harm."""
    sizes = np.tile(np.array([1, 1, 0, 0, 1, 1]) * shape.IMAGE_SIZE, (recipe.unet_batch, 1))
    other = rng.random(recipe.unet_batch) < recipe.unet_other_sizes
    arbitrary = rng.integers(shape.IMAGE_SIZE // 2, 16 * shape.IMAGE_SIZE, (recipe.unet_batch, shape.SIZES))
    arbitrary[:, 2:4] %= 4 * shape.IMAGE_SIZE
    return torch.from_numpy(np.where(other[:, None], arbitrary, sizes))


def train_unet(recipe: Recipe, out: Path) -> None:
    """Denoising under the frozen text tower, loss weighted by min(SNR, cap) / SNR; keeps an average of the weights."""
    _, scenes = load_pictures(out)
    latents = load_file(out / "latents.safetensors")["latents"]
    tokenizer = clip_tokenizer()
    clip = trained_clip(recipe, out)
    signal = alphas_cumprod()
    torch.manual_seed(recipe.seed + 2)
    unet = started_unet(recipe)
    average = copy.deepcopy(unet).requires_grad_(False)
    precision = half_precision if recipe.unet_half else nullcontext

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 3, step))
        chosen = rng.integers(0, len(scenes), recipe.unet_batch)
        texts, _ = captions_for_guidance(scenes, chosen, rng, omit=recipe.caption_omit, drop=recipe.unet_drop_caption)
        with torch.no_grad(), precision():
            states, pooled = clip.condition(tokenizer, texts)
        clean = latents[chosen]
        noise = torch.from_numpy(rng.standard_normal(clean.shape).astype(np.float32))
        if step >= recipe.unet_offset_from:
            # Stable Diffusion's schedule never ends in pure noise: the mean color of a picture shows through at the
            # last step, in training and not in sampling, and backgrounds turn grey. Noise with a mean hides it.
            offset = rng.standard_normal((*clean.shape[:2], 1, 1)).astype(np.float32)
            noise = noise + recipe.unet_offset * torch.from_numpy(offset)
        place = rng.random(recipe.unet_batch)
        if step >= recipe.unet_noisy_from:
            # Backgrounds and layouts are settled at the noisiest steps: draw those more often.
            place = place**recipe.unet_noisy
        steps = torch.from_numpy((place * len(signal)).astype(np.int64))
        kept = signal[steps][:, None, None, None]
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": _sizes(recipe, rng)}
        noisy = kept.sqrt() * clean + (1 - kept).sqrt() * noise
        with precision():
            drawn = unet(noisy, steps, states, added_cond_kwargs=added).sample.float()
        snr = signal[steps] / (1 - signal[steps])
        weight = snr.clamp(max=recipe.unet_snr_cap) / snr
        return ((drawn - noise).square().mean((1, 2, 3)) * weight).mean()

    fit(
        "unet",
        {"unet": unet, "average": average},
        loss_of_step,
        steps=recipe.unet_steps,
        rate=recipe.unet_rate,
        out=out,
        after_step=following(average, unet, recipe.unet_ema),
    )
