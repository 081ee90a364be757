"""An image model inside a model file or a diffusers folder, of which only the doors and the text encoders are read.

In a checkpoint its tensors are called ``model.diffusion_model...``; in a diffusers folder they lie in ``unet``. Which
family it is, and where its doors are, the names and shapes in the header say (``families/doors.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...families.clip import ENCODERS
from ...families.doors import Door, DoorError, Family, family_of
from ...text.prompts import PromptTokenizer
from ..encoder.prompt_states import READINGS, PromptStates, Stream
from ..measure.weight_edit import DoorUpdate, WeightEdit
from .text_encoder_file import (
    ModelFileError,
    Tensors,
    TextEncoderFile,
    folder_weights,
    open_all_encoders,
    opened_tensors,
)

_PREFIX = "model.diffusion_model."
_FOLDER = "unet"
_FOLDER_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


@dataclass(frozen=True)
class ImageModelFile:
    """An image model in a file or folder, with the text encoders whose states it reads.

    Attributes:
        family: which one it is.
        file: the file, or files, that hold it.
        prefix: what stands before its names there.
        encoders: in the order in which their states stand side by side.
    """

    family: Family
    file: Tensors
    prefix: str
    encoders: tuple[TextEncoderFile, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Its parameters' names, without the prefix, and shapes."""
        return _shapes(self.file, self.prefix)

    def doors(self, names: str | None = None) -> tuple[Door, ...]:
        """Its doors, those of the family's default kinds or those whose names fit.

        Raises:
            DoorError: see :meth:`Family.select`; states of another width than the text encoders'.
            TensorFileError: a door's weight is quantized.
        """
        return self._checked(self.family.select(self.shapes(), names=names))

    def doors_of(self, edit: WeightEdit) -> tuple[Door, ...]:
        """Its doors that an edit changes, in this file's names, whatever tree the edit was made in.

        Raises:
            DoorError: the edit is of another family, or of doors that are not there in this shape.
            TensorFileError: a door's weight is quantized.
        """
        if edit.encoder != self.family.name:
            raise DoorError(
                f"The edit is one of {edit.encoder}; this model is {self.family.title}. Use it with its own."
            )
        doors = tuple(self.family.door(self.shapes(), update.door.name) for update in edit.doors)
        for door, update in zip(doors, edit.doors, strict=True):
            if (door.shape, door.rows, door.columns) != (update.door.shape, update.door.rows, update.door.columns):
                made, here = (" x ".join(map(str, one.shape)) for one in (update.door, door))
                raise DoorError(
                    f"The edit changes {update.door.name} of {made}; this model's is {here}. The edit was made for "
                    "another kind of model."
                )
        return self._checked(doors)

    def read(self, door: Door) -> torch.Tensor:
        """A door's weight in its own type."""
        return self.file.tensor(self.stored_name(door))

    def stored_name(self, door: Door) -> str:
        """What the file calls a door's weight."""
        return self.prefix + door.weight

    def stored_dtype(self, door: Door) -> torch.dtype:
        """The type in which the file keeps a door's weight (TensorFileError: quantized)."""
        return self.file.dtype(self.stored_name(door))

    def tokenizer(self, *folders: Path | str | None) -> PromptTokenizer:
        """The tokenizer of the first text encoder (see :meth:`TextEncoderFile.tokenizer`)."""
        return self.encoders[0].tokenizer(*folders)

    def prompt_states(self, tokenizer: PromptTokenizer, device: torch.device | None = None) -> PromptStates:
        """What its doors read, computed by the text encoders in the file.

        Args:
            device: where; the CPU by default.
        """
        streams = []
        for one, reading in zip(self.encoders, READINGS[self.family.name], strict=True):
            tower = one.whole_tower() if reading.unread else one.tower
            tower = tower if device is None else dataclasses.replace(tower, device=device)
            streams.append(Stream(tower, ENCODERS[reading.encoder].pad_token, reading))
        projection = self.encoders[-1].text_projection if self.family.pooled else None
        return PromptStates(tuple(streams), tokenizer, self.family.name, projection)

    def deltas(self, edit: WeightEdit, strength: float = 1.0) -> Mapping[str, torch.Tensor]:
        """What an edit of its doors adds to tensors of the file, by the file's names, each computed when asked for.

        Raises:
            DoorError: see :meth:`doors_of`.
        """
        names = [self.stored_name(door) for door in self.doors_of(edit)]
        return _DoorDeltas(edit, dict(zip(names, edit.doors, strict=True)), strength)

    def _checked(self, doors: tuple[Door, ...]) -> tuple[Door, ...]:
        width = sum(one.tower.width for one in self.encoders)
        for door in doors:
            self.stored_dtype(door)
            if door.kind != "pooled" and door.width != width:
                raise DoorError(
                    f"{door.name} reads text states {door.width} wide, the text encoders give {width}. They do not "
                    "belong together."
                )
        return doors


class _DoorDeltas(Mapping[str, torch.Tensor]):
    def __init__(self, edit: WeightEdit, updates: dict[str, DoorUpdate], strength: float) -> None:
        self._edit, self._updates, self._strength = edit, updates, strength

    def __getitem__(self, name: str) -> torch.Tensor:
        factors = self._edit.factors(self._updates[name])
        return (factors.up * self._strength) @ factors.down

    def __iter__(self) -> Iterator[str]:
        return iter(self._updates)

    def __len__(self) -> int:
        return len(self._updates)


def open_image_model(model: Path | str) -> ImageModelFile:
    """Find the image model of a model on disk, and its text encoders; nothing but headers is read.

    Args:
        model: a single-file checkpoint (safetensors), or a diffusers folder.

    Raises:
        ModelFileError: there is no image model, or not the text encoders that it reads.
        DoorError: it is of no family whose doors are known.
        TensorFileError: a file cannot be read.
    """
    path = Path(model)
    file, prefix = _image_model(path)
    family = family_of(_shapes(file, prefix))
    if family.name not in READINGS:
        raise DoorError(
            f"The text encoders of {family.title} are not read outside of ComfyUI. Use the node Remove Concept or Edit "
            "Image Model."
        )
    encoders = open_all_encoders(path, [reading.encoder for reading in READINGS[family.name]])
    return ImageModelFile(family, file, prefix, encoders)


def has_image_model(model: Path | str) -> bool:
    """Whether a file or folder holds an image model in one of the forms that :func:`open_image_model` knows."""
    try:
        _image_model(Path(model))
    except ModelFileError:
        return False
    return True


def _image_model(path: Path) -> tuple[Tensors, str]:
    """The tensors that hold the image model, and what stands before their names."""
    if path.is_dir():
        if (path / _FOLDER).is_dir():
            return folder_weights(path / _FOLDER, _FOLDER_FILES), ""
    else:
        file = opened_tensors(path)
        if any(name.startswith(_PREFIX) for name in file.places):
            return file, _PREFIX
    raise ModelFileError(
        f"{path.name or path} holds no image model that can be edited. Expected a checkpoint (with {_PREFIX}...) or a "
        f"diffusers folder (with {_FOLDER} in it) of Stable Diffusion 1.x, 2.x or SDXL, as safetensors."
    )


def _shapes(file: Tensors, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): place.shape for name, place in file.places.items() if name.startswith(prefix)}
