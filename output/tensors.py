"""Safetensors files with the same bytes for the same content.

The library writes the entries of a file's metadata in an order that differs from run to run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file; equal tensors and metadata give equal bytes, in every process.

    Raises:
        SafetensorError: tensors that the format cannot hold.
        OSError: the file cannot be written.
    """
    path.write_bytes(in_order(save(dict(tensors), dict(metadata))))


def in_order(data: bytes) -> bytes:
    """The bytes of a safetensors file with the entries of its metadata in alphabetical order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    entries = dict(sorted(header.pop("__metadata__", {}).items()))
    text = json.dumps({"__metadata__": entries, **header}, ensure_ascii=False, separators=(",", ":")).encode()
    # Tensors begin at a multiple of eight bytes.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]
