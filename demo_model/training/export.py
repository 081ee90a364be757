"""Between the checkpoints of a training and the weights that are shipped: written from them, and taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ...text.vocabulary import clip_tokenizer
from ..architecture import EOS, T5_PAD, WEIGHTS, Architecture, FluxArchitecture, Miniature
from ..t5 import CLIP_PREFIX, T5_PREFIX, T5Tokenizer
from ..weights import CLIP_TABLE, T5_TABLE, files_named, load_part
from ..worlds.captions import caption
from ..worlds.world import sample_scenes
from .bidirectional import TAKEN
from .training_set import FluxRecipe, Recipe

FILE_BYTES = 8_000_000
CAPTIONS = 20_000
"""Captions whose tokens are those that a text tower has read."""

# Words of the published templates and of everyday prompts that captions alone would not cover.
_EXTRA_WORDS = (
    "A photo of",
    "An image of",
    "A picture of",
    "a drawing of",
    "one two three shape shapes painting style by in the",
)


def export(recipe: Recipe, out: Path, architecture: Architecture | None = None) -> None:
    """Write the shipped files from the checkpoints of a training in ``out``, to where an architecture has them.

    Parts whose checkpoint is not there are left as they are.
    """
    architecture, recipe_text = architecture or recipe.architecture, json.dumps({"recipe": vars(recipe)})
    own, shared = architecture.folder, architecture.shared
    parts = {
        "clip": (own, _part(out, "clip", "clip.")),
        "autoencoder": (shared, _part(out, "autoencoder", "autoencoder.")),
        "unet": (own, _part(out, "unet", "average.")),
    }
    # The vision tower was trained on after the text towers had been locked.
    vision = _part(out, "vision", "vision.", keep="vision.")
    if own == shared:
        parts["clip"][1].update(vision)
    else:
        clip = parts["clip"][1]
        vision = {key: clip.pop(key) for key in list(clip) if key.startswith("vision.")} | vision
        parts["vision"] = (shared, vision)
    if parts["clip"][1]:
        _keep_trained_rows(parts["clip"][1], architecture)
    for name, (folder, state) in parts.items():
        if state:
            save_part(name, state, folder, shapes=recipe_text)


def restore(recipe: Recipe, out: Path, architecture: Architecture | None = None) -> None:
    """Write checkpoints from the shipped weights, so that training goes on from them on another machine.

    Stages begin anew then, with the shipped weights in place of random ones. Parts that are not shipped are left out,
    and checkpoints that are there stay. The readers of the attributes are not shipped.
    """
    architecture = architecture or recipe.architecture
    own, shared = architecture.folder, architecture.shared
    # The vision tower lies with its world, where that has several models.
    beside = (("vision", shared),) if own != shared else ()
    _restore_part(out / "clip.safetensors", (("clip", own), *beside), ("clip.",))
    _restore_part(out / "autoencoder.safetensors", (("autoencoder", shared),), ("autoencoder.",))
    _restore_part(out / "unet.safetensors", (("unet", own),), ("unet.", "average."))


def export_flux(recipe: FluxRecipe, out: Path, architecture: FluxArchitecture | None = None) -> None:
    """The same for Shapes DiT: the CLIP tower that it reads, T5, and the transformer."""
    architecture, recipe_text = architecture or recipe.architecture, json.dumps({"recipe": vars(recipe)})
    taken = load_file(out / TAKEN) if (out / TAKEN).exists() else {}
    parts = {
        "clip": {name: value for name, value in taken.items() if name.startswith(CLIP_PREFIX)},
        "t5": _part(out, "t5", T5_PREFIX, keep=T5_PREFIX),
        "transformer": _part(out, "transformer", "average."),
    }
    if parts["clip"]:
        CLIP_TABLE.keep(parts["clip"], _name(CLIP_PREFIX), {EOS, *_trained_token_ids(architecture)})
    if parts["t5"]:
        seen = _trained_token_ids(architecture, T5Tokenizer())
        T5_TABLE.keep(parts["t5"], _name(T5_PREFIX), {T5_PAD, *seen})
    for name, state in parts.items():
        if state:
            save_part(name, state, architecture.folder, shapes=recipe_text)


def restore_flux(recipe: FluxRecipe, out: Path, architecture: FluxArchitecture | None = None) -> None:
    """The same for Shapes DiT. The stage "parts" is still to run, and keeps the CLIP tower that is restored."""
    folder = (architecture or recipe.architecture).folder
    _restore_part(out / TAKEN, (("clip", folder),), ("",))
    _restore_part(out / "t5.safetensors", (("t5", folder),), ("",))
    _restore_part(out / "transformer.safetensors", (("transformer", folder),), ("transformer.", "average."))


def _restore_part(checkpoint: Path, parts: Sequence[tuple[str, Path]], prefixes: Sequence[str]) -> None:
    """Write a checkpoint of shipped parts, each a name and its folder, once under each prefix; nothing where it is
    there, or its first part is not shipped."""
    if checkpoint.exists() or not files_named(*parts[0]):
        return
    state = {key: value for name, folder in parts for key, value in load_part(name, folder).items()}
    save_file({prefix + key: value.clone() for prefix in prefixes for key, value in state.items()}, checkpoint)


def _name(prefix: str) -> str:
    """Of a text encoder, by what the names of its weights begin with."""
    return prefix.partition(".")[0]


def _part(out: Path, stage: str, prefix: str, *, keep: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a stage's checkpoint behind a prefix, under ``keep`` and what follows it."""
    path = out / f"{stage}.safetensors"
    if not path.exists():
        return {}
    return {keep + key.removeprefix(prefix): value for key, value in load_file(path).items() if key.startswith(prefix)}


def _keep_trained_rows(clip: dict[str, torch.Tensor], architecture: Architecture) -> None:
    """Put the trained rows of each text tower's embedding table in its place."""
    seen = _trained_token_ids(architecture)
    for name, tower in architecture.texts.items():
        CLIP_TABLE.keep(clip, name, {tower.pad, *seen})
        clip.pop(f"{name}.text_model.embeddings.position_ids", None)


def save_part(name: str, state: dict[str, torch.Tensor], folder: Path = WEIGHTS, **metadata: str) -> None:
    """Write a part in half precision, in files of at most :data:`FILE_BYTES` where no single tensor is larger.

    The files of the part that were there before are removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    shards: list[dict[str, torch.Tensor]] = [{}]
    room = FILE_BYTES
    for key, value in half.items():
        if shards[-1] and value.nbytes > room:
            shards.append({})
            room = FILE_BYTES
        shards[-1][key] = value
        room -= value.nbytes
    for path in files_named(name, folder):
        path.unlink()
    for number, shard in enumerate(shards, 1):
        suffix = "" if len(shards) == 1 else f"-{number:05}-of-{len(shards):05}"
        save_file(shard, folder / f"{name}{suffix}.safetensors", {"format": "pt", **metadata})


def _trained_token_ids(architecture: Miniature, tokenizer: Any = None) -> set[int]:
    """Token ids of captions, by CLIP's tokenizer where no other is given."""
    tokenizer = tokenizer or clip_tokenizer()
    rng = np.random.default_rng(0)
    scenes = sample_scenes(architecture.world, rng, CAPTIONS)
    texts = {caption(scene, rng, omit=0.2, omit_style=0.2)[0] for scene in scenes}
    return {token for row in tokenizer([*texts, *_EXTRA_WORDS])["input_ids"] for token in row}
