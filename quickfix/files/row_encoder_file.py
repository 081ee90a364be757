"""Qwen and T5 in model files, read when asked for.

Found by what the tensors are called, wherever they stand in a file: ``<prefix>layers.0.self_attn.q_proj.weight`` beside
``<prefix>embed_tokens.weight``; ``<prefix>encoder.block.0.layer.0.SelfAttention.q.weight``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from ..encoder.decoder_tower import DecoderTower
from ..encoder.layers import encoder_starts
from ..encoder.row_states import RowReading
from ..encoder.t5_tower import T5Tower
from .text_encoder_file import ModelFileError, TableRows, Tensors

_TABLES = ("embed_tokens.weight", "shared.weight", "embed.weight")
_LAST = [name.split(".") for name in _TABLES]


class PartWeights(Mapping[str, torch.Tensor]):
    """A part of a file: its names without a prefix, to tensors in their own types; token embeddings by rows alone."""

    def __init__(self, file: Tensors, prefix: str) -> None:
        self.file, self.prefix = file, prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self.prefix + name
        if name == "shared.weight" and stored not in self.file.places:
            # diffusers' folders of T5's encoder may have its table under one name or the other.
            stored = f"{self.prefix}encoder.embed_tokens.weight"
        if name.split(".")[-2:] in _LAST and stored in self.file.places:
            self.file.dtype(stored)
            return cast(torch.Tensor, TableRows(self.file, stored))
        return self.file.tensor(stored)

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.file.places

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self.file.places if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def find_encoder(files: Sequence[Tensors], reading: RowReading) -> DecoderTower | T5Tower:
    """The one text encoder of a reading's kind in some files; nothing but headers is read.

    Raises:
        ModelFileError: there is none, or there are several.
        TensorFileError: it is quantized.
    """
    parts = [PartWeights(file, start) for file in files for start in encoder_starts(file.places, reading.kind)]
    if len(parts) != 1:
        names, several = ", ".join(file.path.name for file in files), "s" * (len(parts) > 1)
        raise ModelFileError(
            f"Found {len(parts) or 'no'} {reading.title} text encoder{several} in {names}; expected one. "
            "Name the file that holds it: --text-encoder FILE."
        )
    (part,) = parts
    for name in part:
        if name.startswith(("layers.", "encoder.", *_TABLES)):
            part.file.dtype(part.prefix + name)
    config = _config(part)
    return T5Tower.of(part, config) if reading.kind == "t5" else DecoderTower.of(part, config, reading.theta)


def _config(part: PartWeights) -> Any:
    """The config.json beside the file, if there is one."""
    try:
        return json.loads((part.file.path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def encoder_paths(model: Path, given: Sequence[Path | str]) -> list[Path]:
    """The folders and files in which text encoders may lie: those named, and the model's own."""
    own = [model / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")] if model.is_dir() else [model]
    return [*map(Path, given), *(path for path in own if path.exists())]
