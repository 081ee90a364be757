"""Train the reader of pictures (``demo_model/reader.py``), some minutes of one core.

    python -m diff_quickfix.demo_model.training.reader --out build/reader

Painted scenes alone are its training set, blurred, noisy and tinted a little, since a generated picture is never as
crisp as a painted one. It is judged on painted scenes of combinations that training never saw.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from .. import architecture as shape
from ..reader import PART, SPANS, VALUES, Reader, ReadingNetwork, halved
from ..scenes import Scene, paint, sample_scenes
from ..weights import WEIGHTS
from .fitting import fit
from .training_set import to_signed

SEED = 20261126
PICTURES, STEPS, BATCH, RATE = 6_000, 1_000, 64, 4e-3
HELD_OUT_PICTURES = 1_000


def painted(scenes: Sequence[Scene], seed: int) -> np.ndarray:
    """Pictures of scenes, uint8 (n, 128, 128, 3)."""
    return np.stack([paint(scene, shape.IMAGE_SIZE, np.random.default_rng(seed + i)) for i, scene in enumerate(scenes)])


def labels(scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """For each attribute the index of each scene's value, (n,)."""
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes]) for name, values in VALUES.items()
    }


def spoiled(pictures: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Pictures (n, 3, h, w) in [-1, 1] somewhat blurred, tinted, and with some noise on each pixel."""

    def drawn(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator)

    count = len(pictures)
    pictures = pictures.lerp(F.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False), drawn(count, 1, 1, 1))
    pictures = pictures * (0.85 + 0.3 * drawn(count, 1, 1, 1)) + 0.2 * (drawn(count, 3, 1, 1) - 0.5)
    noise = torch.randn(pictures.shape, generator=generator) * 0.1 * drawn(count, 1, 1, 1)
    return (pictures + noise).clamp(-1, 1)


def train(out: Path) -> None:
    """Train the network; checkpoints in ``out`` are resumed from."""
    out.mkdir(parents=True, exist_ok=True)
    scenes = sample_scenes(np.random.default_rng(SEED), PICTURES)
    cache = out / "painted.npy"
    if not cache.exists():
        np.save(cache, painted(scenes, SEED))
    pictures, wanted = torch.cat([halved(to_signed(part)) for part in np.split(np.load(cache), 20)]), labels(scenes)
    torch.manual_seed(SEED)
    model = ReadingNetwork()

    def loss(step: int) -> torch.Tensor:
        chosen = np.random.default_rng((SEED, step)).integers(len(scenes), size=BATCH)
        seen = spoiled(pictures[chosen], torch.Generator().manual_seed(SEED + step))
        logits = model(seen)
        return torch.stack([F.cross_entropy(logits[:, SPANS[name]], wanted[name][chosen]) for name in VALUES]).sum()

    fit(PART, {PART: model}, loss, steps=STEPS, rate=RATE, out=out, save_every=100)


def export(out: Path, folder: Path = WEIGHTS) -> None:
    """Write the trained network in half precision."""
    state = load_file(out / f"{PART}.safetensors")
    half = {key.removeprefix(f"{PART}."): value.half().contiguous() for key, value in state.items()}
    save_file(half, folder / f"{PART}.safetensors", {"format": "pt"})


def held_out_accuracy(reader: Reader, number: int = HELD_OUT_PICTURES, *, seed: int = 7) -> dict[str, float]:
    """Percent of painted scenes, of combinations that training never saw, whose attribute reads right."""
    scenes = sample_scenes(np.random.default_rng(seed), number, unseen=True)
    reading = reader.read(to_signed(painted(scenes, seed)) / 2 + 0.5)
    return {
        name: 100.0 * float(np.mean([read == getattr(s, name) for read, s in zip(reading[name], scenes, strict=True)]))
        for name in VALUES
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/reader"), help="folder for checkpoints")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.out)
    export(options.out)
    print(held_out_accuracy(Reader()))


if __name__ == "__main__":
    main()
