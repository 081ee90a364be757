"""What Shapes is trained on: every number of its recipe, and the pictures with their scenes."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from .. import architecture as shape
from ..scenes import Scene, paint, sample_scenes

log = logging.getLogger("diff_quickfix.demo_model")


@dataclass(frozen=True)
class Recipe:
    """Every number that the training depends on; written into the model card."""

    seed: int = 20261124
    pictures: int = 16_000
    clip_steps: int = 1_200
    clip_batch: int = 128
    clip_rate: float = 1e-3
    clip_reading: float = 1.0
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
    caption_omit: float = 0.12


RECIPE = Recipe()


def _paint_one(job: tuple[Scene, int, int]) -> np.ndarray:
    scene, size, seed = job
    return paint(scene, size, np.random.default_rng(seed))


def make_pictures(recipe: Recipe, out: Path) -> None:
    """Paint the training set once: ``pictures.npy`` (uint8) and ``scenes.json``."""
    scenes = sample_scenes(np.random.default_rng(recipe.seed), recipe.pictures)
    jobs = [(scene, shape.IMAGE_SIZE, recipe.seed + index) for index, scene in enumerate(scenes)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        pictures = np.stack(list(pool.map(_paint_one, jobs, chunksize=64)))
    np.save(out / "pictures.npy", pictures)
    (out / "scenes.json").write_text(json.dumps([vars(scene) for scene in scenes]))
    log.info("painted %d pictures", len(scenes))


def load_pictures(out: Path) -> tuple[np.ndarray, list[Scene]]:
    pictures = np.load(out / "pictures.npy", mmap_mode="r")
    return pictures, [Scene(**fields) for fields in json.loads((out / "scenes.json").read_text())]


def to_signed(pictures: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 (n, h, w, 3) to float in [-1, 1], (n, 3, h, w)."""
    return torch.as_tensor(np.array(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
