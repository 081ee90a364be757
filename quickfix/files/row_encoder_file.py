"""Qwen3 and T5 in model files, and the small modules that stand before an image model's doors, read when asked for.

Found by what the tensors are called, wherever they stand in a file: ``<prefix>layers.0.self_attn.q_proj.weight`` beside
``<prefix>embed_tokens.weight``; ``<prefix>encoder.block.0.layer.0.SelfAttention.q.weight``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch.nn import functional as F

from ...families.doors import Family
from ..encoder.decoder_tower import DecoderTower
from ..encoder.row_states import MakeStates
from ..encoder.t5_tower import T5Tower
from .adapter import Adapter
from .text_encoder_file import ModelFileError, TableRows, Tensors

_QWEN, _T5 = "layers.0.self_attn.q_proj.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"
_TABLES = ("embed_tokens.weight", "shared.weight", "embed.weight")
_HEAD_WIDTH = 128
_TITLES = {"qwen": "Qwen3", "t5": "T5"}


class PartWeights(Mapping[str, torch.Tensor]):
    """A part of a file: its names without a prefix, to tensors in their own types; token embeddings by rows alone."""

    def __init__(self, file: Tensors, prefix: str) -> None:
        self.file, self.prefix = file, prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        stored = self.prefix + name
        if name == "shared.weight" and stored not in self.file.places:
            # diffusers' folders of T5's encoder may have its table under one name or the other.
            stored = f"{self.prefix}encoder.embed_tokens.weight"
        if name in _TABLES and stored in self.file.places:
            self.file.dtype(stored)
            return cast(torch.Tensor, TableRows(self.file, stored))
        return self.file.tensor(stored)

    def __contains__(self, name: object) -> bool:
        return f"{self.prefix}{name}" in self.file.places

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self.prefix) for name in self.file.places if name.startswith(self.prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def blocks(self, start: str) -> int:
        """How many numbered blocks there are under a name."""
        numbers = {name[len(start) :].split(".")[0] for name in self if name.startswith(start)}
        return len([number for number in numbers if number.isdecimal()])


def find_encoder(files: Sequence[Tensors], kind: str, device: torch.device | None = None) -> DecoderTower | T5Tower:
    """The one text encoder of a kind, "qwen" or "t5", in some files; nothing but headers is read.

    Raises:
        ModelFileError: there is none, or there are several.
        TensorFileError: it is quantized.
    """
    end = _QWEN if kind == "qwen" else _T5
    parts = [
        PartWeights(file, name.removesuffix(end))
        for file in files
        for name in file.places
        if name.endswith(end) and (kind == "t5" or f"{name.removesuffix(end)}embed_tokens.weight" in file.places)
    ]
    if len(parts) != 1:
        names, several = ", ".join(file.path.name for file in files), "s" * (len(parts) > 1)
        raise ModelFileError(
            f"Found {len(parts) or 'no'} {_TITLES[kind]} text encoder{several} in {names}; expected one. "
            "Name the file that holds it: --text-encoder FILE."
        )
    (part,) = parts
    for name in part:
        if name.startswith(("layers.", "encoder.", *_TABLES)):
            part.file.dtype(part.prefix + name)
    where = device or torch.device("cpu")
    config = _config(part, part["shared.weight" if kind == "t5" else "embed_tokens.weight"].shape[-1])
    if kind == "t5":
        return T5Tower(part, part.blocks("encoder.block."), config.get("layer_norm_epsilon", 1e-6), where)
    normed = part.file.places.get(f"{part.prefix}layers.0.self_attn.q_norm.weight")
    width = normed.shape[0] if normed is not None else config.get("head_dim", _HEAD_WIDTH)
    theta = config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 1_000_000.0
    return DecoderTower(part, part.blocks("layers."), width, config.get("rms_norm_eps", 1e-6), float(theta), where)


def _config(part: PartWeights, width: int) -> dict[str, Any]:
    """The config.json beside the file, if it is about an encoder of this width."""
    try:
        config = json.loads((part.file.path.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    own = isinstance(config, dict) and config.get("hidden_size", config.get("d_model")) == width
    return config if own else {}


def file_front(family: Family, file: Tensors, prefix: str, device: torch.device | None = None) -> MakeStates:
    """What an image model's own modules make of the text states before its doors read them, from its file."""
    where = device or torch.device("cpu")

    def read(name: str) -> torch.Tensor:
        return file.tensor(prefix + name).to(where, torch.float32)

    module = _FRONTS[family.name](file, prefix, read) if family.name in _FRONTS else None

    def make(states: torch.Tensor, extras: Mapping[str, Any]) -> torch.Tensor:
        return states if module is None else family.front(module, states.to(where), extras)

    return make


def _norm(weight: torch.Tensor, eps: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda states: F.rms_norm(states, states.shape[-1:], weight, eps)


Read = Callable[[str], torch.Tensor]
# Of the families that have modules before their doors, an object with what :meth:`Family.front` calls.
_FRONTS: dict[str, Callable[[Tensors, str, Read], Any]] = {
    "z-image": lambda file, prefix, read: SimpleNamespace(cap_embedder=[_norm(read("cap_embedder.0.weight"), 1e-5)]),
    "anima": lambda file, prefix, read: SimpleNamespace(
        preprocess_text_embeds=Adapter(
            PartWeights(file, f"{prefix}llm_adapter."), read("llm_adapter.norm.weight").device
        )
    ),
}


def encoder_paths(model: Path, given: Sequence[Path | str]) -> list[Path]:
    """The folders and files in which text encoders may lie: those named, and the model's own."""
    own = [model / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")] if model.is_dir() else [model]
    return [*map(Path, given), *(path for path in own if path.exists())]
