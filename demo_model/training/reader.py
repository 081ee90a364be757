"""Train the reader of a world's pictures (``demo_model/reader.py``), some minutes of one core.

    python -m diff_quickfix.demo_model.training.reader --out build/reader
    python -m diff_quickfix.demo_model.training.reader --model xl --out build/reader-xl

Painted scenes alone are its training set, blurred, noisy and tinted a little, since a generated picture is never as
crisp as a painted one. It is judged on painted scenes of combinations that training never saw.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from ..architecture import ARCHITECTURES, Miniature
from ..reader import PART, Reader, ReadingNetwork, halved, spans
from ..weights import load_part
from ..worlds.world import Scene, World, sample_scenes
from .export import save_part
from .fitting import fit
from .training_set import painted, to_signed
from .warm_start import adopt

BATCH, HELD_OUT_PICTURES = 64, 1_000


@dataclass(frozen=True)
class ReaderRecipe:
    """What the training of a reader depends on; ``warm`` is the model whose world's reader it starts from, if any."""

    seed: int = 20261126
    pictures: int = 6_000
    steps: int = 1_000
    rate: float = 4e-3
    warm: str = ""


RECIPES = {"shapes": ReaderRecipe(), "xl": ReaderRecipe(pictures=16_000, steps=3_600, warm="shapes")}


def labels(world: World, scenes: Sequence[Scene]) -> dict[str, torch.Tensor]:
    """For each attribute the index of each scene's value, (n,)."""
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in world.values.items()
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


def train(model: str, out: Path, recipe: ReaderRecipe) -> None:
    """Train the reader of a miniature's world; checkpoints in ``out`` are resumed from."""
    out.mkdir(parents=True, exist_ok=True)
    world = ARCHITECTURES[model].world
    scenes = sample_scenes(world, np.random.default_rng(recipe.seed), recipe.pictures)
    cache = out / "painted.npy"
    if not cache.exists():
        np.save(cache, painted(world, scenes, recipe.seed))
    pictures = torch.cat([halved(to_signed(part)) for part in np.array_split(np.load(cache, mmap_mode="r"), 20)])
    wanted, outputs = labels(world, scenes), spans(world.values)
    torch.manual_seed(recipe.seed)
    network = ReadingNetwork(world)
    if recipe.warm:
        adopt(network, load_part(PART, ARCHITECTURES[recipe.warm].shared))

    def loss(step: int) -> torch.Tensor:
        chosen = np.random.default_rng((recipe.seed, step)).integers(len(scenes), size=BATCH)
        seen = spoiled(pictures[chosen], torch.Generator().manual_seed(recipe.seed + step))
        logits = network(seen)
        return torch.stack([F.cross_entropy(logits[:, outputs[name]], wanted[name][chosen]) for name in wanted]).sum()

    fit(PART, {PART: network}, loss, steps=recipe.steps, rate=recipe.rate, out=out, save_every=100)


def export(architecture: Miniature, out: Path) -> None:
    """Write the trained network in half precision."""
    state = load_file(out / f"{PART}.safetensors")
    save_part(PART, {key.removeprefix(f"{PART}."): value for key, value in state.items()}, architecture.shared)


def held_out_accuracy(reader: Reader, number: int = HELD_OUT_PICTURES, *, seed: int = 7) -> dict[str, float]:
    """Percent of painted scenes, of combinations that training never saw, whose attribute reads right."""
    scenes = sample_scenes(reader.world, np.random.default_rng(seed), number, unseen=True)
    reading = reader.read(to_signed(painted(reader.world, scenes, seed)) / 2 + 0.5)
    return {
        name: 100.0 * float(np.mean([read == getattr(s, name) for read, s in zip(found, scenes, strict=True)]))
        for name, found in reading.items()
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", choices=RECIPES, default="shapes", help="whose world (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/reader"), help="folder for checkpoints")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(options.model, options.out, RECIPES[options.model])
    export(ARCHITECTURES[options.model], options.out)
    print(held_out_accuracy(Reader(ARCHITECTURES[options.model])))


if __name__ == "__main__":
    main()
