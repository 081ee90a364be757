"""What the miniatures are trained on: every number of their recipes, and the pictures with their scenes."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import architecture as shape
from ..architecture import SHAPES_DIT, UNETS, Architecture, FluxArchitecture
from ..worlds.captions import caption
from ..worlds.painting import paint
from ..worlds.world import Scene, World, sample_scenes

log = logging.getLogger("diff_quickfix.demo_model")


@dataclass(frozen=True)
class Recipe:
    """Every number that the training depends on; written into the model card.

    Attributes:
        model: which of :data:`~..architecture.UNETS`.
        warm: the model whose shipped weights it starts from, "" for none; see :mod:`.warm_start`.
    """

    model: str = "shapes"
    warm: str = ""
    seed: int = 20261124
    pictures: int = 16_000
    clip_steps: int = 1_200
    clip_batch: int = 128
    clip_rate: float = 1e-3
    clip_reading: float = 1.0
    clip_text_reading: float = 0.0
    autoencoder_steps: int = 700
    autoencoder_batch: int = 16
    autoencoder_rate: float = 2e-3
    autoencoder_noise: float = 0.08
    vision_steps: int = 1_400
    vision_batch: int = 128
    vision_rate: float = 1e-3
    vision_noise: float = 0.3
    unet_steps: int = 9_000
    unet_batch: int = 16
    unet_rate: float = 8e-4
    unet_ema: float = 0.998
    unet_drop_caption: float = 0.1
    unet_snr_cap: float = 5.0
    unet_offset_from: int = 4_700
    unet_offset: float = 0.3
    unet_noisy_from: int = 5_400
    unet_noisy: float = 0.6
    unet_other_sizes: float = 0.0
    unet_half: bool = False
    caption_omit: float = 0.12

    @property
    def architecture(self) -> Architecture:
        return UNETS[self.model]


@dataclass(frozen=True)
class FluxRecipe:
    """Every number that the training of Shapes DiT depends on.

    Attributes:
        clip: the model whose shipped CLIP gives the vision tower and the pooled vector, and whose autoencoder makes the
            latents.
        flow_mean, flow_deviation: of the logit of a noise level (arXiv 2403.03206, equation 19).
        flow_uniform: share of noise levels that are drawn evenly instead, so that both ends are seen.
        flow_alignment: weight of how far the image stream is from the vision tower's features (arXiv 2410.06940).
        flow_reading: weight of linear readers of what the caption says, on the image stream's mean.
        flow_seen: weight of how far the guess of the clean latent is from it in the eyes of a network that reads
            latents (``perceptual.py``), times one minus the noise level.
        reader_noise: the largest noise level of the latents which that network reads.
    """

    model: str = "dit"
    clip: str = "xl"
    seed: int = 20261126
    pictures: int = 20_000
    t5_steps: int = 1_200
    t5_batch: int = 96
    t5_rate: float = 1e-3
    t5_reading: float = 1.0
    flow_steps: int = 20_000
    flow_batch: int = 16
    flow_rate: float = 1e-3
    flow_ema: float = 0.999
    flow_alignment: float = 0.5
    flow_reading: float = 0.03
    flow_seen: float = 10.0
    reader_steps: int = 1_500
    reader_batch: int = 64
    reader_rate: float = 2e-3
    reader_noise: float = 0.4
    flow_drop_caption: float = 0.1
    flow_mean: float = 0.5
    flow_deviation: float = 1.0
    flow_uniform: float = 0.2
    half: bool = True
    caption_omit: float = 0.12

    @property
    def architecture(self) -> FluxArchitecture:
        return SHAPES_DIT


RECIPES = {
    "shapes": Recipe(),
    "xl": Recipe(
        model="xl",
        warm="shapes",
        seed=20261126,
        pictures=20_000,
        clip_steps=700,
        clip_batch=96,
        clip_text_reading=0.5,
        autoencoder_steps=400,
        autoencoder_rate=1e-3,
        unet_steps=5_000,
        unet_rate=1e-3,
        unet_ema=0.999,
        unet_offset_from=0,
        unet_noisy_from=0,
        unet_other_sizes=0.2,
        unet_half=True,
    ),
}
FLUX_RECIPES = {"dit": FluxRecipe()}


def painted(world: World, scenes: Sequence[Scene], seed: int) -> np.ndarray:
    """Pictures of scenes, uint8 (n, 128, 128, 3); scene i is painted with seed ``seed + i``."""
    pictures = np.empty((len(scenes), shape.IMAGE_SIZE, shape.IMAGE_SIZE, 3), np.uint8)
    for index, scene in enumerate(scenes):
        pictures[index] = paint(world, scene, shape.IMAGE_SIZE, np.random.default_rng(seed + index))
    return pictures


def make_pictures(recipe: Recipe | FluxRecipe, out: Path) -> None:
    """Paint the training set once: ``pictures.npy`` (uint8) and ``scenes.json``."""
    world = recipe.architecture.world
    scenes = sample_scenes(world, np.random.default_rng(recipe.seed), recipe.pictures)
    np.save(out / "pictures.npy", painted(world, scenes, recipe.seed))
    (out / "scenes.json").write_text(json.dumps([vars(scene) for scene in scenes]))
    log.info("painted %d pictures", len(scenes))


def load_pictures(out: Path) -> tuple[np.ndarray, list[Scene]]:
    pictures = np.load(out / "pictures.npy", mmap_mode="r")
    return pictures, [Scene(**fields) for fields in json.loads((out / "scenes.json").read_text())]


def captions_for_guidance(
    scenes: Sequence[Scene], chosen: np.ndarray, rng: np.random.Generator, *, omit: float, drop: float
) -> tuple[list[str], list[frozenset[str]]]:
    """Captions of some scenes and the attributes that each says, each replaced by the empty prompt with probability
    ``drop``, so that the model can be guided without a classifier (Ho and Salimans 2022)."""
    texts = [caption(scenes[place], rng, omit=omit) for place in chosen]
    kept = [("", frozenset[str]()) if rng.random() < drop else text for text in texts]
    return [text for text, _ in kept], [said for _, said in kept]


def to_signed(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float in [-1, 1], (n, 3, h, w)."""
    return torch.as_tensor(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
