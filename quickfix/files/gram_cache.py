"""Gram matrices of many keys, kept in files: made once for an encoder, read in milliseconds.

A file's name is the hash of what its matrix depends on, which stands in its metadata too; another hash is another file.
A file that cannot be read counts as none: the matrix is made again and takes its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from ...output.files import whole_file
from ...output.tensors import write_tensors

_SUFFIX, _ENTRY, _FORMAT = ".gram.safetensors", "diff_quickfix_gram", 1
# Files of a folder, and their bytes together: the oldest go. A matrix of 4096 is 128 MiB.
MOST_FILES, MOST_BYTES = 8, 512 * 2**20
# Matrices in memory, of the widths that a file may have.
_IN_MEMORY = 2


class CountedGram(NamedTuple):
    """The Gram matrix of the keys of some captions.

    Attributes:
        gram: (d, d) in fp64 on the CPU.
        captions: how many captions the keys are of.
    """

    gram: torch.Tensor
    captions: int


@dataclass(frozen=True)
class GramCache:
    """Gram matrices in a folder.

    Attributes:
        folder: need not exist yet; None keeps matrices in memory alone.
    """

    folder: Path | None = None

    def read(self, facts: Mapping[str, str]) -> CountedGram | None:
        """The matrix that depends on some facts; None where there is none, or no readable one."""
        key = _key(facts)
        if key in _MEMORY:
            _MEMORY[key] = _MEMORY.pop(key)
            return _MEMORY[key]
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        found = _read(path, key)
        if found is not None:
            _remember(key, found)
            with contextlib.suppress(OSError):
                os.utime(path)
        return found

    def write(self, facts: Mapping[str, str], made: CountedGram) -> None:
        """Keep a matrix, and remove the files used longest ago beyond :data:`MOST_FILES` and :data:`MOST_BYTES`.

        A folder that cannot be written to is no error: the matrix then lives as long as the process.
        """
        key = _key(facts)
        _remember(key, made)
        path = self._path(key)
        if path is None or made.gram.nbytes > MOST_BYTES:
            return
        label = json.dumps({"format": _FORMAT, "key": key, "captions": made.captions, "facts": dict(facts)})
        with contextlib.suppress(OSError, SafetensorError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, overwrite=True) as part:
                write_tensors(part, {"gram": made.gram.contiguous()}, {_ENTRY: label})
            _remove_oldest(path.parent, path)

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{key[:40]}{_SUFFIX}"


_MEMORY: dict[str, CountedGram] = {}


def forget() -> None:
    """Drop what is kept in memory; files stay."""
    _MEMORY.clear()


def _remember(key: str, made: CountedGram) -> None:
    _MEMORY.pop(key, None)
    _MEMORY[key] = made
    while len(_MEMORY) > _IN_MEMORY:
        del _MEMORY[next(iter(_MEMORY))]


def _key(facts: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([_FORMAT, *sorted(facts.items())]).encode()).hexdigest()


def _read(path: Path, key: str) -> CountedGram | None:
    try:
        with safe_open(path, "pt") as file:
            label = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            gram = file.get_tensor("gram")
            found = CountedGram(gram, int(label["captions"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError):
        return None
    square = gram.ndim == 2 and gram.shape[0] == gram.shape[1] and gram.dtype == torch.float64
    fits = label.get("format") == _FORMAT and label.get("key") == key and found.captions > 0
    return found if square and fits and bool(torch.isfinite(gram).all()) else None


def _remove_oldest(folder: Path, newest: Path) -> None:
    """Files of the folder beyond the bounds, those used longest ago first; never the newest."""
    others = []
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            if path != newest:
                state = path.stat()
                others.append((state.st_mtime, state.st_size, path))
    room, files = MOST_BYTES - newest.stat().st_size, MOST_FILES - 1
    for _, size, path in sorted(others, key=lambda other: other[0], reverse=True):
        room, files = room - size, files - 1
        if room < 0 or files < 0:
            with contextlib.suppress(OSError):
                path.unlink()
