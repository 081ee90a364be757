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

Shapes DiT (``--model dit``) is trained after Shapes XL, whose CLIP and autoencoder it takes over. Its stages: pictures,
parts (what it takes over, and what that makes of the pictures), t5 (its text encoder, against the frozen vision tower),
latent_reader (what outlines are compared by), transformer (flow matching under frozen text states), export.
"""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .bidirectional import take_over, train_t5
from .compression import train_autoencoder
from .contrastive import train_clip, train_vision
from .denoising import train_unet
from .export import export, export_flux, restore, restore_flux
from .flow import train_transformer
from .perceptual import train_latent_reader
from .training_set import FLUX_RECIPES, RECIPES, FluxRecipe, Recipe, make_pictures

Stage = Callable[[Any, Path], None]
STAGES: dict[str, Stage] = {
    "pictures": make_pictures,
    "clip": train_clip,
    "autoencoder": train_autoencoder,
    "vision": train_vision,
    "unet": train_unet,
    "export": export,
}
FLUX_STAGES: dict[str, Stage] = {
    "pictures": make_pictures,
    "parts": take_over,
    "t5": train_t5,
    "latent_reader": train_latent_reader,
    "transformer": train_transformer,
    "export": export_flux,
}


def plan_of(model: str, stage: str) -> tuple[Recipe | FluxRecipe, list[Stage]]:
    """A model's recipe, and the stages of it that a name means.

    Raises:
        ValueError: the model has no such stage.
    """
    flux = model in FLUX_RECIPES
    stages, back = (FLUX_STAGES, restore_flux) if flux else (STAGES, restore)
    recipe = FLUX_RECIPES[model] if flux else RECIPES[model]
    if stage == "all":
        return recipe, list(stages.values())
    named = {**stages, "restore": back}
    if stage not in named:
        raise ValueError(f"The model {model} has no stage {stage}; its stages are {', '.join([*named, 'all'])}.")
    return recipe, [named[stage]]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="train", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("stage", choices=[*dict.fromkeys([*STAGES, *FLUX_STAGES]), "all", "restore"])
    parser.add_argument(
        "--model", choices=[*RECIPES, *FLUX_RECIPES], default="shapes", help="which miniature (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, help="working folder for pictures and checkpoints")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads (default: all)")
    options = parser.parse_args(arguments)
    try:
        recipe, stages = plan_of(options.model, options.stage)
    except ValueError as error:
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    for run in stages:
        run(recipe, options.out)


if __name__ == "__main__":
    main()
