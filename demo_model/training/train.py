"""Train a miniature from nothing, on a laptop.

    python -m diff_quickfix.demo_model.training.train all --out build/shapes
    python -m diff_quickfix.demo_model.training.train all --model xl --out build/xl

or stage by stage: pictures, clip, autoencoder, vision, unet, export. ``restore`` makes checkpoints of the shipped
weights, so that the stages named after it train those on. The recipe is that of Stable Diffusion: text
towers and a vision tower are trained contrastively on captioned pictures and then frozen; an autoencoder compresses the
pictures eight-fold; the vision tower learns to read what the decoder draws; a cross-attention UNet learns to denoise
latents under the frozen text states, with one caption in ten replaced by the empty prompt for classifier-free guidance,
under offset noise. ``clip`` and ``autoencoder`` may run side by side. Every stage is seeded, saves a checkpoint as it
goes and resumes from it.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch

from .compression import train_autoencoder
from .contrastive import train_clip, train_vision
from .denoising import train_unet
from .export import export, restore
from .training_set import RECIPES, Recipe, make_pictures

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
    parser.add_argument("stage", choices=[*STAGES, "all", "restore"])
    parser.add_argument("--model", choices=RECIPES, default="shapes", help="which miniature (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="working folder for pictures and checkpoints")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for stage in STAGES if options.stage == "all" else [options.stage]:
        (restore if stage == "restore" else STAGES[stage])(RECIPES[options.model], options.out)


if __name__ == "__main__":
    main()
