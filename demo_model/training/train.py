"""Train Shapes from nothing, on a laptop.

    python -m diff_quickfix.demo_model.training.train pictures --out build/shapes
    python -m diff_quickfix.demo_model.training.train clip     --out build/shapes
    python -m diff_quickfix.demo_model.training.train autoencoder --out build/shapes
    python -m diff_quickfix.demo_model.training.train vision   --out build/shapes
    python -m diff_quickfix.demo_model.training.train unet     --out build/shapes
    python -m diff_quickfix.demo_model.training.train export   --out build/shapes

The recipe is that of Stable Diffusion: a CLIP text tower and a vision tower are trained contrastively on captioned
pictures and then frozen; an autoencoder compresses the pictures eight-fold; the vision tower learns to read what the
decoder draws; a cross-attention UNet learns to denoise latents under the frozen text states, with one caption in ten
replaced by the empty prompt for classifier-free guidance, at the end under offset noise. ``clip`` and ``autoencoder``
may run side by side. Every stage is seeded, saves a checkpoint as it goes and resumes from it.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.nn import Linear

from ...text.vocabulary import clip_tokenizer
from .. import architecture as shape
from ..autoencoder import Autoencoder
from ..clip import Clip
from ..scenes import Scene, caption
from ..weights import tokenize
from .export import export
from .fitting import fit
from .training_set import RECIPE, Recipe, load_pictures, make_pictures, to_signed

log = logging.getLogger("diff_quickfix.demo_model")

ATTRIBUTES = ("object", "color", "background", "style", "count", "position")


# --- CLIP ------------------------------------------------------------------------------------------------------------


def trained_clip(out: Path) -> Clip:
    """The trained towers, frozen."""
    clip = Clip().eval().requires_grad_(False)
    state = load_file(out / "clip.safetensors")
    clip.load_state_dict({k[5:]: v for k, v in state.items() if k.startswith("clip.")})
    return clip


def _attribute_codes(scenes: list[Scene]) -> torch.Tensor:
    """Integer code of each attribute of each scene, (n, attributes)."""
    values = [
        [str(getattr(scene, a)) if a != "position" or scene.count == 1 else "" for a in ATTRIBUTES] for scene in scenes
    ]
    columns = [sorted({row[i] for row in values}) for i in range(len(ATTRIBUTES))]
    return torch.tensor([[columns[i].index(v) for i, v in enumerate(row)] for row in values])


def _contrast(
    seen: torch.Tensor, words: torch.Tensor, scale: torch.Tensor, codes: torch.Tensor, said: Sequence[frozenset[str]]
) -> torch.Tensor:
    """CLIP's symmetric loss; a caption that also holds for another picture of the batch is no counter-example to it."""
    mentions = torch.tensor([[a in s for a in ATTRIBUTES] for s in said])
    same = codes[:, None, :] == codes[None, :, :]
    also_true = (same | ~mentions[None, :, :]).all(-1) & ~torch.eye(len(codes), dtype=torch.bool)
    logits = F.normalize(seen, dim=-1) @ F.normalize(words, dim=-1).T * scale.exp()
    logits = logits.masked_fill(also_true, -1e4)
    target = torch.arange(len(codes))
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def _reading(guesses: torch.Tensor, codes: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """Cross entropy of the linear readers, summed over the attributes."""
    parts = guesses.split(sizes, dim=1)
    return torch.stack([F.cross_entropy(guess, codes[:, i]) for i, guess in enumerate(parts)]).sum()


def train_clip(recipe: Recipe, out: Path) -> None:
    """Contrastive training of both towers, with captions that also hold for another picture taken out of the loss."""
    pictures, scenes = load_pictures(out)
    codes = _attribute_codes(scenes)
    tokenizer = clip_tokenizer()
    torch.manual_seed(recipe.seed)
    clip = Clip()
    # Linear readers of each attribute on the image embedding, dropped after training: without them a tower of this size
    # tells colors and textures apart at once, and outlines only after many thousand steps.
    readers = Linear(shape.PROJECTION, int(codes.amax(0).add(1).sum()))
    sizes = codes.amax(0).add(1).tolist()

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 1, step))
        chosen = rng.choice(len(scenes), recipe.clip_batch, replace=False)
        texts, said = zip(*(caption(scenes[i], rng, omit=0.25, omit_style=0.25) for i in chosen), strict=True)
        words = clip.text(input_ids=tokenize(tokenizer, list(texts), length=None)).text_embeds
        seen = clip.vision(to_signed(pictures[chosen]))
        contrast = _contrast(seen, words, clip.logit_scale, codes[chosen], said)
        return contrast + recipe.clip_reading * _reading(readers(seen), codes[chosen], sizes)

    def keep_scale_sane(step: int) -> None:
        clip.logit_scale.data.clamp_(max=math.log(100.0))

    fit(
        "clip",
        {"clip": clip, "readers": readers},
        loss_of_step,
        steps=recipe.clip_steps,
        rate=recipe.clip_rate,
        out=out,
        after_step=keep_scale_sane,
        weight_decay=0.05,
    )


# --- autoencoder -----------------------------------------------------------------------------------------------------


def train_autoencoder(recipe: Recipe, out: Path) -> None:
    """Fit the linear encoder, encode the training set with it, and train the decoder on noisy latents.

    The decoder's loss is the absolute error of the pixels and of their differences.
    """
    pictures, _ = load_pictures(out)
    torch.manual_seed(recipe.seed + 1)
    autoencoder = Autoencoder()
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


# --- vision tower on decoded pictures ------------------------------------------------------------------------------


def train_vision(recipe: Recipe, out: Path) -> None:
    """Train the vision tower on, against the locked text tower, partly on what the decoder makes of noisy latents.

    The first contrastive training leaves the reader unsure of outlines, and it has only seen painted pictures; what it
    reads afterwards are generated ones.
    """
    pictures, scenes = load_pictures(out)
    codes = _attribute_codes(scenes)
    sizes = codes.amax(0).add(1).tolist()
    latents = load_file(out / "latents.safetensors")["latents"]
    autoencoder = Autoencoder().eval().requires_grad_(False)
    state = load_file(out / "autoencoder.safetensors")
    autoencoder.load_state_dict({k[len("autoencoder.") :]: v for k, v in state.items()})
    tokenizer = clip_tokenizer()
    torch.manual_seed(recipe.seed + 3)
    clip = trained_clip(out)
    vision = clip.vision.train().requires_grad_(True)
    readers = Linear(shape.PROJECTION, sum(sizes))
    state = load_file(out / "clip.safetensors")
    readers.load_state_dict({k[len("readers.") :]: v for k, v in state.items() if k.startswith("readers.")})
    decoded_share = recipe.vision_batch // 8

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 4, step))
        chosen = rng.choice(len(scenes), recipe.vision_batch, replace=False)
        texts, said = zip(*(caption(scenes[i], rng, omit=0.25, omit_style=0.25) for i in chosen), strict=True)
        with torch.no_grad():
            words = clip.text(input_ids=tokenize(tokenizer, list(texts), length=None)).text_embeds
            some = latents[chosen[:decoded_share]]
            level = torch.from_numpy(rng.uniform(0, recipe.vision_noise, (decoded_share, 1, 1, 1)).astype(np.float32))
            noise = torch.from_numpy(rng.standard_normal(some.shape).astype(np.float32))
            decoded = autoencoder.decode(some + level * noise)
        seen = vision(torch.cat([decoded, to_signed(pictures[chosen[decoded_share:]])]))
        contrast = _contrast(seen, words, clip.logit_scale, codes[chosen], said)
        return contrast + recipe.clip_reading * _reading(readers(seen), codes[chosen], sizes)

    fit(
        "vision",
        {"vision": vision, "readers": readers},
        loss_of_step,
        steps=recipe.vision_steps,
        rate=recipe.vision_rate,
        out=out,
        weight_decay=0.05,
    )


# --- UNet ------------------------------------------------------------------------------------------------------------


def build_unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**shape.UNET_CONFIG)


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's scaled-linear noise schedule, (1000,)."""
    config = shape.SCHEDULER_CONFIG
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"]) ** 2
    return torch.cumprod(1 - betas, 0)


def train_unet(recipe: Recipe, out: Path) -> None:
    """Denoising under the frozen text tower, loss weighted by min(SNR, cap) / SNR; keeps an average of the weights."""
    _, scenes = load_pictures(out)
    latents = load_file(out / "latents.safetensors")["latents"]
    tokenizer = clip_tokenizer()
    clip = trained_clip(out)
    signal = alphas_cumprod()
    torch.manual_seed(recipe.seed + 2)
    unet = build_unet()
    average = copy.deepcopy(unet).requires_grad_(False)

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 3, step))
        chosen = rng.integers(0, len(scenes), recipe.unet_batch)
        texts = [caption(scenes[i], rng, omit=recipe.caption_omit)[0] for i in chosen]
        texts = ["" if rng.random() < recipe.unet_drop_caption else text for text in texts]
        with torch.no_grad():
            states = clip.text.text_model(tokenize(tokenizer, texts)).last_hidden_state
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
        drawn = unet(kept.sqrt() * clean + (1 - kept).sqrt() * noise, steps, states).sample
        snr = signal[steps] / (1 - signal[steps])
        weight = snr.clamp(max=recipe.unet_snr_cap) / snr
        return ((drawn - noise).square().mean((1, 2, 3)) * weight).mean()

    def follow(step: int) -> None:
        decay = min(recipe.unet_ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(unet.parameters()), 1 - decay)

    fit(
        "unet",
        {"unet": unet, "average": average},
        loss_of_step,
        steps=recipe.unet_steps,
        rate=recipe.unet_rate,
        out=out,
        after_step=follow,
    )


STAGES: dict[str, Callable[[Recipe, Path], None]] = {
    "pictures": make_pictures,
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "vision": train_vision,
    "unet": train_unet,
    "export": export,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--out", type=Path, required=True, help="working folder for pictures and checkpoints")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if options.stage == "all" else [options.stage]:
        STAGES[stage](RECIPE, options.out)


if __name__ == "__main__":
    main()
