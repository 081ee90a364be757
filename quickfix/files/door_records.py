"""What a file holds of an edit of doors beside its LoRA: the maps of the states, and the doors' factors read back."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...families.doors import Door, DoorError, Family, family_named
from ...output.json_records import RecordError
from ..measure.weight_edit import DoorUpdate, WeightEdit, lora_parts
from ..solver.low_rank import LowRank

_WIDEST = 2**17


@dataclass(frozen=True)
class StoredMap:
    """A map of states, up (width, rank) and down (rank, width), as text: little-endian fp32, base64."""

    width: int
    rank: int
    up: str
    down: str

    @classmethod
    def of(cls, update: LowRank) -> StoredMap:
        return cls(update.up.shape[0], update.rank, _text(update.up), _text(update.down))

    def value(self) -> LowRank:
        """The map.

        Raises:
            RecordError: sizes out of range, or texts that are no numbers of these sizes.
        """
        if not (0 < self.width <= _WIDEST and 0 <= self.rank <= self.width):
            raise RecordError(f"its map is of rank {self.rank} and {self.width} wide")
        return LowRank(
            _numbers(self.up, (self.width, self.rank), "up"), _numbers(self.down, (self.rank, self.width), "down")
        )


def stored_maps(edit: WeightEdit) -> tuple[StoredMap, StoredMap | None]:
    """The maps of the text states and of the pooled vector."""
    return StoredMap.of(LowRank(edit.up, edit.down)), None if edit.pooled is None else StoredMap.of(edit.pooled)


def module_factors(
    key: str, tensors: Mapping[str, torch.Tensor | None], naming: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """up and down of one module of a LoRA in fp32, with its scale in up.

    Raises:
        RecordError: shapes that do not fit, NaN or infinity, a tensor that is missing.
    """
    parts = [tensors.get(f"{key}.{part}") for part in lora_parts(naming)]
    if any(part is None for part in parts):
        raise RecordError(f"it lacks the factors of {key[:80]}")
    up, down, *scales = (part.float() for part in parts if part is not None)
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0] or 0 in up.shape or 0 in down.shape:
        raise RecordError(f"its factors have the shapes {tuple(up.shape)} and {tuple(down.shape)}")
    alpha = scales[0] if scales else torch.tensor(float(down.shape[0]))
    if alpha.numel() != 1 or not all(torch.isfinite(tensor).all() for tensor in (up, down, alpha)):
        raise RecordError("its factors hold NaN or infinity")
    return up * (float(alpha) / down.shape[0]), down


def door_updates(
    family: str,
    naming: str,
    doors: Sequence[Door],
    stored: tuple[StoredMap | None, StoredMap | None],
    tensors: Mapping[str, torch.Tensor | None],
) -> tuple[LowRank, LowRank | None, tuple[DoorUpdate, ...]]:
    """The maps of the text states and of the pooled vector, and each door's update.

    Args:
        family, naming, doors, stored: what the metadata says.
        tensors: of the file, by name.

    Raises:
        RecordError: they do not fit each other.
    """
    if stored[0] is None or not doors:
        raise RecordError("it has no doors, or no map of the text states")
    states, pooled = stored[0].value(), None if stored[1] is None else stored[1].value()
    try:
        known = family_named(family)
        keys = [_name(known, door, naming) for door in doors]
        places = [known.lora_place(door, naming) for door in doors]
    except (DoorError, TypeError, ValueError, ZeroDivisionError) as error:
        raise RecordError(str(error)) from error
    wanted = {f"{key}.{part}" for key in keys for part in lora_parts(naming)}
    # See WeightEdit.module_rank.
    common = naming == "diffusers"
    ranks = [max(1, part.rank) for part in (states, pooled) if part is not None]
    # Doors of one module are rows of it.
    apart = {(key, *place.put) for key, place in zip(keys, places, strict=True)}
    if len(apart) != len(doors) or wanted != set(tensors):
        raise RecordError(f"it holds {len(tensors)} tensors; expected the {len(wanted)} of its {len(doors)} doors")
    found = []
    for key, door, place in zip(keys, doors, places, strict=True):
        part = pooled if door.kind == "pooled" else states
        if part is None or door.width != part.down.shape[1]:
            raise RecordError(f"the map of {door.name[:80]} is missing or of another width")
        up, down = module_factors(key, tensors, naming)
        if up.shape[1] != (max(ranks) if common else max(1, part.rank)) or down.shape[1] != door.shape[1]:
            raise RecordError(f"the factors of {door.name[:80]} have the shapes {tuple(up.shape)}, {tuple(down.shape)}")
        if len(up) != place.height:
            raise RecordError(f"the factors of {door.name[:80]} have {len(up)} rows")
        whole = torch.zeros(door.shape[0], part.rank)
        try:
            whole[slice(*place.taken)] = up[slice(*place.put), : part.rank]
        except RuntimeError as error:
            raise RecordError(f"the rows of {door.name[:80]} are {place.put}, of {len(up)}") from error
        found.append(DoorUpdate(door, whole))
    return states, pooled, tuple(found)


def _name(family: Family, door: Door, naming: str) -> str:
    if len(door.shape) != 2 or door.shape[0] > _WIDEST or door.shape[1] > _WIDEST or min(door.shape) < 1:
        raise RecordError(f"a door has the shape {door.shape}")
    return family.lora_name(door, naming)


def _text(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.float().contiguous().numpy().astype("<f4").tobytes()).decode("ascii")


def _numbers(text: str, shape: tuple[int, int], name: str) -> torch.Tensor:
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise RecordError(f"{name} of its map is no base64 ({error})") from error
    if len(raw) != 4 * shape[0] * shape[1]:
        raise RecordError(f"{name} of its map has {len(raw)} bytes; expected {4 * shape[0] * shape[1]}")
    found = torch.from_numpy(np.frombuffer(raw, "<f4").astype(np.float32)).reshape(shape)
    if not torch.isfinite(found).all():
        raise RecordError(f"{name} of its map holds NaN or infinity")
    return found
