"""Shapes on disk: what is shipped, and how it is read.

Three parts in half precision lie in ``demo_model/weights`` as safetensors: ``clip`` (both towers), ``autoencoder`` and
``unet``, the last under diffusers' names. A part of more than 8 MB lies in several files, named as diffusers names its
shards, since ComfyUI's registry scans no file of more than 10 MB. The vocabulary has 49,408 words and training reads
some two hundred of them, so the embedding table is shipped as its trained rows; every other row is zero: a word that
Shapes never read says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from . import architecture as shape

REPOSITORY = "https://github.com/diff-quickfix/diff-quickfix"

# In a CLIP's state, behind a text tower's name: the embedding table, its trained rows, and their token ids.
TABLE = ".text_model.embeddings.token_embedding.weight"
TABLE_ROWS, TABLE_IDS = ".token_rows", ".token_ids"


def tokenize(
    tokenizer: Any, texts: Sequence[str], *, length: int | None = shape.CONTEXT_LENGTH, pad: int = shape.EOS
) -> torch.Tensor:
    """Token ids of shape (n, length), padded with ``pad``; ``length=None`` cuts at the longest text."""
    rows = tokenizer(list(texts), truncation=True, max_length=shape.CONTEXT_LENGTH)["input_ids"]
    width = length or max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def load_part(name: str, folder: Path = shape.WEIGHTS) -> dict[str, torch.Tensor]:
    """One part's tensors in fp32, with the embedding table restored.

    Raises:
        FileNotFoundError: a file of it is not there.
    """
    state = {key: value for path in _files_of(name, folder) for key, value in load_file(path).items()}
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    for tower in [key.removesuffix(TABLE_ROWS) for key in state if key.endswith(TABLE_ROWS)]:
        rows, ids = state.pop(tower + TABLE_ROWS), state.pop(tower + TABLE_IDS)
        table = torch.zeros(shape.VOCABULARY, rows.shape[1])
        table[ids.long()] = rows
        state[tower + TABLE] = table
    return state


def files_named(name: str, folder: Path) -> list[Path]:
    """The files of a part that are there, in no order."""
    pattern = rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}})?"
    return [path for path in folder.glob("*.safetensors") if re.fullmatch(pattern, path.stem)]


def _files_of(name: str, folder: Path) -> list[Path]:
    """A part's files: ``name.safetensors``, or all its shards."""
    there = {path.stem: path for path in files_named(name, folder)}
    count = max((int(stem[-5:]) for stem in there if stem != name), default=0)
    wanted = [f"{name}-{number:05}-of-{count:05}" for number in range(1, count + 1)] or [name]
    missing = [f"{stem}.safetensors" for stem in wanted if stem not in there]
    if missing:
        remedy = "Install the pack again, or run `make train`."
        if shape.WEIGHTS in folder.parents:
            inside = folder.relative_to(shape.WEIGHTS).as_posix()
            remedy = (
                f"They are no part of the pack's upload: copy the folder demo_model/weights/{inside} from "
                f"{REPOSITORY}, or run `make train MODEL=xl` in a clone of it."
            )
        raise FileNotFoundError(f"Shapes' weights are missing: {', '.join(missing)} in {folder}. {remedy}")
    return [there[stem] for stem in wanted]
