"""Training of the CLIPs: text towers and a vision tower, contrastively."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.nn import Linear

from ...text.vocabulary import clip_tokenizer
from ..autoencoder import Autoencoder
from ..clip import Clip
from ..worlds.captions import caption
from ..worlds.world import Scene
from .fitting import fit
from .training_set import Recipe, load_pictures, to_signed
from .warm_start import adopt_part

ATTRIBUTES = ("object", "color", "background", "style", "count", "position")


def trained_clip(recipe: Recipe, out: Path) -> Clip:
    """The trained towers, frozen."""
    clip = Clip(recipe.architecture).eval().requires_grad_(False)
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


def contrast(
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


def reading(
    guesses: torch.Tensor, codes: torch.Tensor, sizes: list[int], said: Sequence[frozenset[str]] | None = None
) -> torch.Tensor:
    """Cross entropy of the linear readers, summed over the attributes; of what a caption says where ``said`` tells."""
    total = guesses.new_zeros(())
    for index, guess in enumerate(guesses.split(sizes, dim=1)):
        known = torch.ones(len(codes), dtype=torch.bool)
        if said is not None:
            known = torch.tensor([ATTRIBUTES[index] in words for words in said])
        if known.any():
            total = total + F.cross_entropy(guess[known], codes[known, index])
    return total


def train_clip(recipe: Recipe, out: Path) -> None:
    """Contrastive training of both towers, with captions that also hold for another picture taken out of the loss."""
    pictures, scenes = load_pictures(out)
    codes = _attribute_codes(scenes)
    tokenizer = clip_tokenizer()
    torch.manual_seed(recipe.seed)
    clip = Clip(recipe.architecture)
    adopt_part(clip, recipe, "clip")
    # Linear readers of each attribute on the image embedding, dropped after training: without them a tower of this size
    # tells colors and textures apart at once, and outlines only after many thousand steps.
    readers = Linear(clip.vision.projection.out_features, int(codes.amax(0).add(1).sum()))
    sizes = codes.amax(0).add(1).tolist()

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 1, step))
        chosen = rng.choice(len(scenes), recipe.clip_batch, replace=False)
        texts, said = zip(*(caption(scenes[i], rng, omit=0.25, omit_style=0.25) for i in chosen), strict=True)
        seen = clip.vision(to_signed(pictures[chosen]))
        loss = recipe.clip_reading * reading(readers(seen), codes[chosen], sizes)
        for words in clip.embed_texts(tokenizer, texts):
            loss = loss + contrast(seen, words, clip.logit_scale, codes[chosen], said)
            if recipe.clip_text_reading:
                read = reading(readers(words), codes[chosen], sizes, said)
                loss = loss + recipe.clip_text_reading * read
        return loss

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
    clip = trained_clip(recipe, out)
    vision = clip.vision.train().requires_grad_(True)
    readers = Linear(vision.projection.out_features, sum(sizes))
    state = load_file(out / "clip.safetensors")
    known = {k[len("readers.") :]: v for k, v in state.items() if k.startswith("readers.")}
    if known:
        readers.load_state_dict(known)
    decoded_share = recipe.vision_batch // 8

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 4, step))
        chosen = rng.choice(len(scenes), recipe.vision_batch, replace=False)
        texts, said = zip(*(caption(scenes[i], rng, omit=0.25, omit_style=0.25) for i in chosen), strict=True)
        with torch.no_grad():
            words = clip.embed_texts(tokenizer, texts)
            some = latents[chosen[:decoded_share]]
            level = torch.from_numpy(rng.uniform(0, recipe.vision_noise, (decoded_share, 1, 1, 1)).astype(np.float32))
            noise = torch.from_numpy(rng.standard_normal(some.shape).astype(np.float32))
            decoded = autoencoder.decode(some + level * noise)
        seen = vision(torch.cat([decoded, to_signed(pictures[chosen[decoded_share:]])]))
        against = sum(contrast(seen, one, clip.logit_scale, codes[chosen], said) for one in words)
        return against + recipe.clip_reading * reading(readers(seen), codes[chosen], sizes)

    fit(
        "vision",
        {"vision": vision, "readers": readers},
        loss_of_step,
        steps=recipe.vision_steps,
        rate=recipe.vision_rate,
        out=out,
        weight_decay=0.05,
    )
