"""A safetensors file read tensor by tensor, and copied with some tensors replaced.

The format: eight bytes with the header's length, little-endian; the header, JSON from tensor name to dtype, shape and
place; the tensors. Tensors are read, not mapped: a mapped table costs memory for every page around the rows it gives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from ...output.files import whole_file

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LARGEST_HEADER = 100_000_000
_CHUNK = 1 << 23
_GAP = 8


class TensorFileError(ValueError):
    """A file that is no sound safetensors file, or a tensor in it that cannot be used."""


@dataclass(frozen=True)
class Place:
    """One tensor of a file: its type as the format calls it, its shape, and its bytes counted from the file's start."""

    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


class TensorFile:
    """The header of a safetensors file; tensors are read when asked for.

    Attributes:
        path: the file.
        places: each tensor by its name.
        metadata: the file's own metadata.

    Raises:
        TensorFileError: there is no such file; it is truncated, or not of this format.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            with self.path.open("rb") as file:
                header, begin = _header(file, self.path)
        except OSError as error:
            raise TensorFileError(f"Cannot read {self.path} ({error.strerror or error}).") from error
        self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
        try:
            self.places = {name: _place(entry, begin) for name, entry in header.items()}
        except (TypeError, KeyError, ValueError) as error:
            raise TensorFileError(f"{self.path.name} has a damaged header. Take another copy.") from error
        ends, size = max((place.end for place in self.places.values()), default=begin), self.path.stat().st_size
        if ends != size:
            raise TensorFileError(
                f"{self.path.name} is {'truncated' if ends > size else 'damaged'}: it has {size} bytes, its header "
                f"says {ends}. Download or copy it again."
            )

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor in its own dtype.

        Raises:
            KeyError: there is none of this name.
            TensorFileError: its type is no plain float type (quantized weights).
        """
        place = self.places[name]
        with self._opened() as file:
            return self._read(file, place.start, place.end - place.start, self.dtype(name)).reshape(place.shape)

    def rows(self, name: str, numbers: torch.Tensor) -> torch.Tensor:
        """Some rows of a tensor (n, width), in the order asked for; neighbours are read together."""
        place, dtype = self.places[name], self.dtype(name)
        width = math.prod(place.shape[1:])
        stride = width * dtype.itemsize
        distinct, index = torch.unique(numbers.cpu(), return_inverse=True)
        runs = []
        with self._opened() as file:
            for run in _runs(distinct):
                first, last = int(run[0]), int(run[-1])
                block = self._read(file, place.start + first * stride, (last - first + 1) * stride, dtype)
                runs.append(block.reshape(-1, width)[run - first])
        found = torch.cat(runs) if runs else torch.empty(0, width, dtype=dtype)
        return found[index].reshape(*numbers.shape, *place.shape[1:])

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor.

        Raises:
            KeyError: there is none of this name.
            TensorFileError: no plain float type (quantized weights).
        """
        kind = self.places[name].kind
        if kind not in DTYPES:
            raise TensorFileError(
                f"{name} in {self.path.name} is of type {kind}: quantized weights cannot be edited. Use a file with "
                "fp32, fp16 or bf16 weights."
            )
        return DTYPES[kind]

    def copy(
        self,
        target: Path | str,
        replaced: Mapping[str, torch.Tensor],
        *,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write a copy with some tensors' values replaced, each rounded to its own dtype; all else is bit-identical.

        Args:
            replaced: new values by name, each asked for when it is written.
            progress: called with (bytes copied, all bytes).

        Raises:
            KeyError: a tensor that the file does not have.
            TensorFileError: a tensor of another shape, quantized, or with values that its dtype cannot hold.
            FileExistsError, OSError: see :func:`~..files.whole_file`.
        """
        for name in replaced:
            self.dtype(name)
        size = self.path.stat().st_size
        with (
            whole_file(Path(target), overwrite=overwrite) as part,
            self.path.open("rb") as source,
            part.open("wb") as out,
        ):
            while chunk := source.read(_CHUNK):
                out.write(chunk)
                if progress is not None:
                    progress(out.tell(), size)
            for name in replaced:
                data = self._bytes(name, replaced[name])
                out.seek(self.places[name].start)
                out.write(data)

    def copy_with(
        self,
        target: Path | str,
        deltas: Mapping[str, torch.Tensor],
        *,
        overwrite: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """:meth:`copy` with something added to some tensors, in fp32; of those, the ones that this file has."""
        self.copy(target, _Added(self, deltas), overwrite=overwrite, progress=progress)

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb", buffering=0) as file:
                yield cast(BinaryIO, file)
        except OSError as error:
            raise TensorFileError(f"Cannot read {self.path} ({error.strerror or error}).") from error

    def _read(self, file: BinaryIO, start: int, length: int, dtype: torch.dtype) -> torch.Tensor:
        data = bytearray(length)
        file.seek(start)
        view, read = memoryview(data), 0
        # One unbuffered read may bring less than was asked for.
        while read < length and (more := file.readinto(view[read:])):  # type: ignore[attr-defined]
            read += more
        if read != length:
            raise TensorFileError(f"{self.path.name} has changed while it was read. Try again.")
        return torch.frombuffer(data, dtype=dtype) if length else torch.empty(0, dtype=dtype)

    def _bytes(self, name: str, tensor: torch.Tensor) -> bytes:
        place, dtype = self.places[name], self.dtype(name)
        if tuple(tensor.shape) != place.shape:
            raise TensorFileError(f"{name} is {place.shape}; got a tensor of shape {tuple(tensor.shape)} for it.")
        rounded = tensor.detach().to("cpu", dtype).contiguous()
        if not torch.isfinite(rounded).all():
            raise TensorFileError(f"The new values of {name} do not fit into {place.kind}. Nothing was written.")
        return rounded.view(torch.uint8).numpy().tobytes()


class _Added(Mapping[str, torch.Tensor]):
    """Tensors of a file with something added to them, computed when asked for."""

    def __init__(self, file: TensorFile, deltas: Mapping[str, torch.Tensor]) -> None:
        self._file, self._deltas = file, deltas
        self._names = [name for name in deltas if name in file.places]

    def __getitem__(self, name: str) -> torch.Tensor:
        weight = self._file.tensor(name).float()
        weight += self._deltas[name]
        return weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    """The header and where the tensors begin."""
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if 2 <= length <= _LARGEST_HEADER else b""
    try:
        header = json.loads(text) if len(text) == length else None
    except (ValueError, RecursionError):
        header = None
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    sound = metadata is None or (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    )
    if not isinstance(header, dict) or not sound:
        raise TensorFileError(
            f"{path.name} is no sound safetensors file. Files in other formats (.ckpt, .bin, .gguf) must be converted "
            "first; a damaged download must be repeated."
        )
    return header, 8 + length


def _place(entry: dict[str, Any], begin: int) -> Place:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = (*shape, start, end)
    if not isinstance(kind, str) or not all(type(number) is int and number >= 0 for number in numbers) or start > end:
        raise ValueError
    if kind in DTYPES and math.prod(shape) * DTYPES[kind].itemsize != end - start:
        raise ValueError
    return Place(kind, tuple(shape), begin + start, begin + end)


def _runs(numbers: torch.Tensor) -> list[torch.Tensor]:
    """Sorted numbers, cut where more than a few are missing."""
    if not len(numbers):
        return []
    cuts = (numbers.diff() > _GAP).nonzero().flatten() + 1
    return list(torch.tensor_split(numbers, cuts))
