"""An image model inside a model file or a diffusers folder, of which only the doors and the text encoders are read.

In a checkpoint its tensors are called ``model.diffusion_model...``, in a file of its own they have no prefix or another
one; in a diffusers folder they lie in ``unet`` or ``transformer``. Which family it is, and where its doors are, the
names and shapes in the header say (``families/doors.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...families.clip import ENCODERS
from ...families.doors import Door, DoorError, Family
from ...text.prompts import PromptTokenizer
from ..encoder.fronts.opened import require_width
from ..encoder.joined_states import JoinedStates
from ..encoder.prompt_states import READINGS, PromptStates, Stream
from ..encoder.row_states import RowStates
from ..measure.weight_edit import DoorUpdate, WeightEdit
from .text_encoder_file import Tensors, TextEncoderFile

# The text states of an image model, whatever its text encoders are.
States = PromptStates | RowStates | JoinedStates


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
        return shapes_below(self.file, self.prefix)

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

    @property
    def states_width(self) -> int:
        """How wide the states are that the text encoders give."""
        return sum(one.tower.width for one in self.encoders)

    def prompt_states(
        self, tokenizer: PromptTokenizer, device: torch.device | None = None, folder: Path | str | None = None
    ) -> States:
        """What its doors read, computed by the text encoders in the file.

        Args:
            tokenizer: of :meth:`tokenizer`.
            device: where; the CPU by default.
            folder: of tokenizers, for a second text encoder that has another one.
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
        for door in doors:
            self.stored_dtype(door)
        require_width(doors, self.states_width)
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


def shapes_below(file: Tensors, prefix: str) -> dict[str, tuple[int, ...]]:
    """The names below a prefix, without it, and their shapes."""
    return {name.removeprefix(prefix): place.shape for name, place in file.places.items() if name.startswith(prefix)}
