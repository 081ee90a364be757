"""Writes the weights that are shipped from the checkpoints of a finished training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ...text.vocabulary import clip_tokenizer
from ..scenes import caption, sample_scenes
from ..weights import PARTS, TABLE, TABLE_IDS, TABLE_ROWS, WEIGHTS, files_named

FILE_BYTES = 8_000_000

# Words of the published templates and of everyday prompts that captions alone would not cover.
_EXTRA_WORDS = (
    "A photo of",
    "An image of",
    "A picture of",
    "a drawing of",
    "one two three shape shapes painting style by in the",
)


def export(recipe: Any, out: Path, folder: Path = WEIGHTS) -> None:
    """Write the shipped files from the checkpoints of a finished training in ``out``."""
    folder.mkdir(exist_ok=True)
    clip = {k[5:]: v for k, v in load_file(out / "clip.safetensors").items() if k.startswith("clip.")}
    # The vision tower was trained on after the text tower had been locked.
    clip |= {k: v for k, v in load_file(out / "vision.safetensors").items() if k.startswith("vision.")}
    ids = _trained_token_ids()
    clip[TABLE_ROWS], clip[TABLE_IDS] = clip.pop(TABLE)[ids.long()].contiguous(), ids
    clip.pop("text.text_model.embeddings.position_ids", None)
    unet = {k[8:]: v for k, v in load_file(out / "unet.safetensors").items() if k.startswith("average.")}
    autoencoder = {k[12:]: v for k, v in load_file(out / "autoencoder.safetensors").items()}
    for name, state in zip(PARTS, (clip, autoencoder, unet), strict=True):
        save_part(name, state, folder, shapes=json.dumps({"recipe": vars(recipe)}))


def save_part(name: str, state: dict[str, torch.Tensor], folder: Path = WEIGHTS, **metadata: str) -> None:
    """Write a part in half precision, in files of at most :data:`FILE_BYTES` where no single tensor is larger.

    The files of the part that were there before are removed.
    """
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


def _trained_token_ids() -> torch.Tensor:
    tokenizer = clip_tokenizer()
    rng = np.random.default_rng(0)
    texts = {caption(scene, rng, omit=0.2, omit_style=0.2)[0] for scene in sample_scenes(rng, 20_000)}
    ids = {token for row in tokenizer([*texts, *_EXTRA_WORDS])["input_ids"] for token in row}
    return torch.tensor(sorted(ids), dtype=torch.int32)
