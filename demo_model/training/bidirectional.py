"""What Shapes DiT takes over from Shapes XL, and the training of its T5 encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import Linear

from ..architecture import T5_PAD, UNETS
from ..clip import load_clip
from ..pipeline import load_autoencoder
from ..t5 import CLIP_PREFIX, DiTTexts
from ..worlds.captions import caption
from ..worlds.world import POSITIONS, Scene, World, sample_scenes
from .contrastive import ATTRIBUTES, contrast, reading
from .fitting import fit
from .precision import half_precision
from .training_set import FluxRecipe, load_pictures, to_signed

log = logging.getLogger("diff_quickfix.demo_model")

TAKEN = "taken.safetensors"
"""Where the CLIP that was taken over lies, under the names of its part."""
_BATCH = 256


def take_over(recipe: FluxRecipe, out: Path) -> None:
    """Make checkpoints and pictures' latents of the shipped parts of the model that the recipe names.

    Writes ``taken.safetensors`` (its CLIP), ``latents.safetensors``, and ``seen.safetensors``: each picture's embedding
    by the vision tower, (n, projection), and the tower's features of each place, (n, places, channels). A text tower
    that is in the first already stays, since a transformer that was trained before reads it.

    Raises:
        FileNotFoundError: the parts are not shipped, or not made yet.
    """
    architecture = UNETS[recipe.clip]
    clip, autoencoder = load_clip(architecture), load_autoencoder(architecture)
    pictures, _ = load_pictures(out)
    state = {name: value.contiguous() for name, value in clip.state_dict().items()}
    if (out / TAKEN).exists():
        state |= {name: value for name, value in load_file(out / TAKEN).items() if name.startswith(CLIP_PREFIX)}
    save_file(state, out / TAKEN)
    latents, seen, features = [], [], []
    for start in range(0, len(pictures), _BATCH):
        some = to_signed(pictures[start : start + _BATCH])
        with torch.no_grad():
            latents.append(autoencoder.encode(some))
            seen.append(clip.vision(some))
            features.append(clip.vision.features(some).flatten(2).transpose(1, 2).half())
    save_file({"latents": torch.cat(latents).contiguous()}, out / "latents.safetensors")
    save_file({"seen": torch.cat(seen), "features": torch.cat(features).contiguous()}, out / "seen.safetensors")
    log.info("took over %s, %d pictures", architecture.name, len(pictures))


def attribute_codes(world: World, scenes: Sequence[Scene]) -> tuple[torch.Tensor, list[int]]:
    """Each scene's value of each attribute by its place among a world's values, (n, attributes); and their numbers."""
    every = {**world.values, "count": (1, 2, 3), "position": (*POSITIONS, "")}
    # Two or three of a kind have no place.
    codes = [
        [every[a].index("" if a == "position" and scene.count > 1 else getattr(scene, a)) for a in ATTRIBUTES]
        for scene in scenes
    ]
    return torch.tensor(codes), [len(every[attribute]) for attribute in ATTRIBUTES]


def started_texts(recipe: FluxRecipe, out: Path) -> DiTTexts:
    """The text encoders before T5's training: CLIP as it was taken over, T5 of random weights.

    Raises:
        FileNotFoundError: the stage "parts" has not run.
    """
    texts = DiTTexts(recipe.architecture)
    texts.load_clip(done(out, TAKEN, "parts"))
    texts.clip.eval().requires_grad_(False)
    return texts


def done(out: Path, file: str, stage: str) -> dict[str, torch.Tensor]:
    """What an earlier stage wrote.

    Raises:
        FileNotFoundError: it has not run.
    """
    if not (out / file).exists():
        raise FileNotFoundError(f"{file} is not in {out}. Run the stage `{stage}` first.")
    return load_file(out / file)


def train_t5(recipe: FluxRecipe, out: Path) -> None:
    """Contrastive training of the encoder against the locked vision tower.

    A caption's embedding is the mean of its states, pads left out, through a matrix that is dropped after training, as
    are linear readers of each attribute that a caption says.
    """
    _, scenes = load_pictures(out)
    codes, sizes = attribute_codes(recipe.architecture.world, scenes)
    seen, scale = done(out, "seen.safetensors", "parts")["seen"], done(out, TAKEN, "parts")["logit_scale"]
    torch.manual_seed(recipe.seed + 4)
    texts = started_texts(recipe, out)
    width = texts.t5.config.d_model
    projection, readers = Linear(width, seen.shape[1], bias=False), Linear(width, sum(sizes))
    precision = half_precision if recipe.half else nullcontext

    def loss_of_step(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 5, step))
        chosen = rng.choice(len(scenes), recipe.t5_batch, replace=False)
        words, said = zip(*(caption(scenes[i], rng, omit=0.25, omit_style=0.25) for i in chosen), strict=True)
        with precision():
            means = caption_means(texts, words)
        loss = contrast(seen[chosen], projection(means), scale, codes[chosen], said)
        return loss + recipe.t5_reading * reading(readers(means), codes[chosen], sizes, said)

    fit(
        "t5",
        {"t5": texts.t5, "projection": projection, "readers": readers},
        loss_of_step,
        steps=recipe.t5_steps,
        rate=recipe.t5_rate,
        out=out,
        weight_decay=0.05,
    )
    log.info("a caption says right: %s", read_captions(recipe, out))


def caption_means(texts: DiTTexts, captions: Sequence[str]) -> torch.Tensor:
    """The mean state (n, width) of each caption's tokens, the end token among them and pads not; fp32."""
    tokens = texts.tokens(captions)
    kept = (tokens != T5_PAD).float()[..., None]
    return (texts.states(tokens).float() * kept).sum(1) / kept.sum(1)


def trained_texts(recipe: FluxRecipe, out: Path) -> DiTTexts:
    """Both text encoders from the checkpoints, frozen.

    Raises:
        FileNotFoundError: an earlier stage has not run.
    """
    texts = started_texts(recipe, out).eval().requires_grad_(False)
    texts.load_t5(done(out, "t5.safetensors", "t5"))
    return texts


def read_captions(recipe: FluxRecipe, out: Path, number: int = 400) -> dict[str, float]:
    """Percent of held-out captions of which the trained readers read an attribute right that the caption says."""
    rng = np.random.default_rng((recipe.seed, 6))
    scenes = sample_scenes(recipe.architecture.world, rng, number, unseen=True)
    words, said = zip(*(caption(scene, rng, omit=0.25, omit_style=0.25) for scene in scenes), strict=True)
    codes, sizes = attribute_codes(recipe.architecture.world, scenes)
    state = done(out, "t5.safetensors", "t5")
    with torch.no_grad():
        means = caption_means(trained_texts(recipe, out), words)
    guesses = (means @ state["readers.weight"].T + state["readers.bias"]).split(sizes, dim=1)
    right = {}
    for index, (attribute, guess) in enumerate(zip(ATTRIBUTES, guesses, strict=True)):
        told = torch.tensor([attribute in some for some in said])
        right[attribute] = 100.0 * float((guess.argmax(1) == codes[:, index])[told].float().mean())
    return right
