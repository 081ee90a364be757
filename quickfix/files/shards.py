"""Weights that lie in several safetensors files, read as if they were one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from .tensor_file import Place, TensorFile, TensorFileError

_SHARD = r"(.*)-(\d{5})-of-(\d{5})\.safetensors"


class ShardedTensors:
    """Several safetensors files with tensors of different names, with the reading part of :class:`TensorFile`.

    Attributes:
        path: the first of the files.
        places: each tensor by its name.

    Raises:
        TensorFileError: a file is missing or damaged, or two hold a tensor of one name.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        for path in paths:
            if not path.is_file():
                raise TensorFileError(
                    f"{path.name}, one of {len(paths)} files that hold the weights, is missing in {path.parent}. "
                    "Download it again."
                )
        self.path = paths[0]
        self.places: dict[str, Place] = {}
        self._files: dict[str, TensorFile] = {}
        for file in map(TensorFile, paths):
            if twice := self.places.keys() & file.places.keys():
                raise TensorFileError(f"{file.path.name} holds {min(twice)}, which another of the files holds too.")
            self.places |= file.places
            self._files |= dict.fromkeys(file.places, file)

    def tensor(self, name: str) -> torch.Tensor:
        """See :meth:`TensorFile.tensor`."""
        return self._files[name].tensor(name)

    def rows(self, name: str, numbers: torch.Tensor) -> torch.Tensor:
        """See :meth:`TensorFile.rows`."""
        return self._files[name].rows(name, numbers)

    def dtype(self, name: str) -> torch.dtype:
        """See :meth:`TensorFile.dtype`."""
        return self._files[name].dtype(name)

    def copy(
        self,
        target: Path | str,
        replaced: Mapping[str, torch.Tensor],
        *,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Always refused (TensorFileError): one file cannot be the copy of several."""
        self._refuse_copy()

    def copy_with(
        self,
        target: Path | str,
        deltas: Mapping[str, torch.Tensor],
        *,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Always refused (TensorFileError), as :meth:`copy` is."""
        self._refuse_copy()

    def _refuse_copy(self) -> NoReturn:
        raise TensorFileError(f"The weights lie in {len(set(self._files.values()))} files; copy the whole folder.")


def shards_of(file: Path) -> list[Path]:
    """The files that belong together with one that is called ``...-00001-of-00003.safetensors``; none for others."""
    found = re.fullmatch(_SHARD, file.name)
    if found is None:
        return []
    stem, count = found[1], found[3]
    return [file.with_name(f"{stem}-{number:05}-of-{count}.safetensors") for number in range(1, int(count) + 1)]


def indexed_shards(folder: Path) -> list[Path]:
    """The files that the first index in a folder names, in order; none where there is no index.

    Raises:
        TensorFileError: the index cannot be read, or names files outside of the folder.
    """
    index = next(iter(sorted(folder.glob("*.safetensors.index*.json"))), None)
    if index is None:
        return []
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise TensorFileError(f"{index.name} is damaged ({error}). Download it again.") from error
    if not names or any(not isinstance(name, str) or Path(name).name != name for name in names):
        raise TensorFileError(f"{index.name} names no files of its folder. Download it again.")
    return [folder / name for name in names]
