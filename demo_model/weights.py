"""Shapes on disk: what is shipped, how it is written after training, how it is read.

Three parts in half precision lie in ``demo_model/weights`` as safetensors: ``clip`` (both towers), ``autoencoder`` and
``unet``, the last under diffusers' names. A part of more than 8 MB lies in several files, named as diffusers names its
shards, since ComfyUI's registry scans no file of more than 10 MB. The vocabulary has 49,408 words and training reads
some two hundred of them, so the embedding table is shipped as its trained rows; every other row is zero: a word that
Shapes never read says nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..text.vocabulary import clip_tokenizer
from . import architecture as shape
from .scenes import caption, sample_scenes

WEIGHTS = Path(__file__).parent / "weights"
PARTS = ("clip", "autoencoder", "unet")
FILE_BYTES = 8_000_000

_TABLE = "text.text_model.embeddings.token_embedding.weight"
_ROWS, _IDS = "text.token_rows", "text.token_ids"
# Words of the published templates and of everyday prompts that captions alone would not cover.
_EXTRA_WORDS = (
    "A photo of",
    "An image of",
    "A picture of",
    "a drawing of",
    "one two three shape shapes painting style by in the",
)


def tokenize(tokenizer: Any, texts: Sequence[str], *, length: int | None = shape.CONTEXT_LENGTH) -> torch.Tensor:
    """Token ids of shape (n, length), padded with EOS; ``length=None`` cuts at the longest text."""
    rows = tokenizer(list(texts), truncation=True, max_length=shape.CONTEXT_LENGTH)["input_ids"]
    width = length or max(map(len, rows))
    return torch.tensor([row + [shape.EOS] * (width - len(row)) for row in rows])


def _trained_token_ids() -> torch.Tensor:
    tokenizer = clip_tokenizer()
    rng = np.random.default_rng(0)
    texts = {caption(scene, rng, omit=0.2, omit_style=0.2)[0] for scene in sample_scenes(rng, 20_000)}
    ids = {token for row in tokenizer([*texts, *_EXTRA_WORDS])["input_ids"] for token in row}
    return torch.tensor(sorted(ids), dtype=torch.int32)


def load_part(name: str, folder: Path = WEIGHTS) -> dict[str, torch.Tensor]:
    """One part's tensors in fp32, with the embedding table restored.

    Raises:
        FileNotFoundError: a file of it is not there.
    """
    state = {key: value for path in _files_of(name, folder) for key, value in load_file(path).items()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    if _ROWS in state:
        rows, ids = state.pop(_ROWS), state.pop(_IDS)
        table = torch.zeros(shape.VOCABULARY, rows.shape[1])
        table[ids.long()] = rows
        state[_TABLE] = table
    return state


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
    for path in _found(name, folder):
        path.unlink()
    for number, shard in enumerate(shards, 1):
        suffix = "" if len(shards) == 1 else f"-{number:05}-of-{len(shards):05}"
        save_file(shard, folder / f"{name}{suffix}.safetensors", {"format": "pt", **metadata})


def _found(name: str, folder: Path) -> list[Path]:
    pattern = rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}})?"
    return [path for path in folder.glob("*.safetensors") if re.fullmatch(pattern, path.stem)]


def _files_of(name: str, folder: Path) -> list[Path]:
    """A part's files: ``name.safetensors``, or all its shards."""
    there = {path.stem: path for path in _found(name, folder)}
    count = max((int(stem[-5:]) for stem in there if stem != name), default=0)
    wanted = [f"{name}-{number:05}-of-{count:05}" for number in range(1, count + 1)] or [name]
    missing = [f"{stem}.safetensors" for stem in wanted if stem not in there]
    if missing:
        raise FileNotFoundError(
            f"Shapes' weights are missing: {', '.join(missing)} in {folder}. "
            "Install the pack again, or run `make train`."
        )
    return [there[stem] for stem in wanted]


def export(recipe: Any, out: Path, folder: Path = WEIGHTS) -> None:
    """Write the shipped files from the checkpoints of a finished training in ``out``."""
    folder.mkdir(exist_ok=True)
    clip = {k[5:]: v for k, v in load_file(out / "clip.safetensors").items() if k.startswith("clip.")}
    # The vision tower was trained on after the text tower had been locked.
    clip |= {k: v for k, v in load_file(out / "vision.safetensors").items() if k.startswith("vision.")}
    ids = _trained_token_ids()
    clip[_ROWS], clip[_IDS] = clip.pop(_TABLE)[ids.long()].contiguous(), ids
    clip.pop("text.text_model.embeddings.position_ids", None)
    unet = {k[8:]: v for k, v in load_file(out / "unet.safetensors").items() if k.startswith("average.")}
    autoencoder = {k[12:]: v for k, v in load_file(out / "autoencoder.safetensors").items()}
    for name, state in zip(PARTS, (clip, autoencoder, unet), strict=True):
        save_part(name, state, folder, shapes=json.dumps({"recipe": vars(recipe)}))
