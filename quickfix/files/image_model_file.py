"""An image model inside a model file or a diffusers folder, of which only the doors and the text encoders are read.

In a checkpoint its tensors are called ``model.diffusion_model...``, in a file of its own they have no prefix or another
one; in a diffusers folder they lie in ``unet`` or ``transformer``. Which family it is, and where its doors are, the
names and shapes in the header say (``families/doors.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ...families.clip import ENCODERS
from ...families.doors import Door, DoorError, Family, family_of
from ...text.other_tokenizers import find_tokenizer
from ...text.prompts import PromptTokenizer
from ...text.rows import RowTokenizer
from ..encoder.decoder_tower import DecoderTower
from ..encoder.prompt_states import READINGS, PromptStates, Reading, Stream
from ..encoder.row_states import ROW_READINGS, UNKNOWN, RowReading, RowStates, row_tokenizer
from ..encoder.t5_tower import T5Tower
from ..encoder.token_table import TokenTable
from ..measure.weight_edit import DoorUpdate, WeightEdit
from .row_encoder_file import PartWeights, encoder_paths, file_front, find_encoder
from .tensor_file import TensorFileError
from .text_encoder_file import (
    ModelFileError,
    Tensors,
    TextEncoderFile,
    folder_weights,
    open_all_encoders,
    open_clips,
    opened_tensors,
)

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
_FOLDERS = ("unet", "transformer")
# Diffusers pads Flux.1's prompts to this length.
_DIFFUSERS_FLUX = 512
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

    @property
    def states_width(self) -> int:
        """How wide the states are that the text encoders give."""
        return sum(one.tower.width for one in self.encoders)

    def prompt_states(
        self, tokenizer: PromptTokenizer, device: torch.device | None = None, folder: Path | str | None = None
    ) -> PromptStates | RowStates:
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
        width = self.states_width
        for door in doors:
            self.stored_dtype(door)
            if door.kind != "pooled" and door.width != width:
                raise DoorError(
                    f"{door.name} reads text states {door.width} wide, the text encoders give {width}. They do not "
                    "belong together."
                )
        return doors


@dataclass(frozen=True)
class RowModelFile(ImageModelFile):
    """An image model that reads another text encoder than CLIP.

    Attributes:
        encoders: CLIP-L, where the image model reads its pooled vector and it is there.
        text: the text encoder.
        reading: how the image model reads it.
        folders: where tokenizers may lie.
    """

    text: DecoderTower | T5Tower = field(kw_only=True)
    reading: RowReading = field(kw_only=True)
    folders: tuple[Path, ...] = field(kw_only=True, default=())

    def tokenizer(self, *folders: Path | str | None) -> PromptTokenizer:
        """The tokenizer of the text encoder: of the first of some folders that has one, else the model's own, else a
        ComfyUI's (:func:`~.text.other_tokenizers.find_tokenizer` for the errors)."""
        kinds = {self.reading.kind, "t5"} if self.reading.beside else {self.reading.kind}
        return row_tokenizer(
            self.reading, self.family, {kind: find_tokenizer(kind, *folders, *self.folders) for kind in kinds}
        )

    @property
    def states_width(self) -> int:
        """How wide the states are that the doors are given."""
        return self.shapes()["llm_adapter.norm.weight"][0] if self.reading.beside else self.text.width

    def prompt_states(
        self, tokenizer: PromptTokenizer, device: torch.device | None = None, folder: Path | str | None = None
    ) -> RowStates:
        """What its doors read, computed by the text encoder and the modules before the doors; see the base's."""
        assert isinstance(tokenizer, RowTokenizer)
        text = self.text if device is None else dataclasses.replace(self.text, device=device)
        make = file_front(self.family, self.file, self.prefix, device)
        table = None
        if self.reading.beside:
            weights = PartWeights(self.file, f"{self.prefix}llm_adapter.")["embed.weight"]
            table = TokenTable(weights.shape[0], lambda ids: weights[ids].float(), frozenset({UNKNOWN}))
        return RowStates(text, tokenizer, self.family, self.reading, make, table, self._clip(device, folder))

    def _clip(self, device: torch.device | None, folder: Path | str | None) -> PromptStates | None:
        """CLIP-L, whose end state is the pooled vector as it is."""
        if not self.encoders:
            return None
        (clip,) = self.encoders
        tower = clip.whole_tower() if device is None else dataclasses.replace(clip.whole_tower(), device=device)
        stream = Stream(tower, ENCODERS["clip_l"].pad_token, Reading("clip_l", 0, True))
        # A folder may hold the other text encoder's tokenizer alone.
        roots = [Path(root) for root in (folder, *self.folders) if root]
        tokenizer = clip.tokenizer(*(r for r in roots if (r / "comfy").is_dir() or (r / "merges.txt").is_file()))
        return PromptStates((stream,), tokenizer, self.family.name, lambda: torch.eye(tower.width))

    def _checked(self, doors: tuple[Door, ...]) -> tuple[Door, ...]:
        if not self.encoders and any(door.kind == "pooled" for door in doors):
            raise ModelFileError(
                f"{self.family.title} reads a pooled vector of CLIP-L too, which is not in {self.file.path.name}. Name "
                "its file with another --text-encoder FILE, or the other maps alone with --doors."
            )
        return super()._checked(doors)


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


def open_image_model(model: Path | str, text_encoders: Sequence[Path | str] = ()) -> ImageModelFile:
    """Find the image model of a model on disk, and its text encoders; nothing but headers is read.

    Args:
        model: a checkpoint or a file of an image model alone (safetensors), or a diffusers folder.
        text_encoders: files or folders of text encoders that are not in the model.

    Raises:
        ModelFileError: there is no image model, or not the text encoders that it reads.
        DoorError: it is of no family whose doors are known.
        TensorFileError: a file cannot be read.
    """
    path = Path(model)
    file, prefix = _image_model(path)
    family = family_of(_shapes(file, prefix))
    if family.name in READINGS:
        encoders = open_all_encoders(path, [reading.encoder for reading in READINGS[family.name]], text_encoders)
        return ImageModelFile(family, file, prefix, encoders)
    if family.name not in ROW_READINGS:
        raise DoorError(
            f"The text encoders of {family.title} are not read outside of ComfyUI. Use the node Remove Concept or Edit "
            "Image Model."
        )
    reading = ROW_READINGS[family.name]
    if path.is_dir() and reading.pooled:
        reading = reading._replace(least=_DIFFUSERS_FLUX)
    paths = encoder_paths(path, text_encoders)
    files = [folder_weights(one) if one.is_dir() else opened_tensors(one) for one in paths]
    text = find_encoder(files, reading.kind)
    clips = open_clips(files, "clip_l", paths) if reading.pooled else ()
    folders = (*([path] if path.is_dir() else []), *(one for one in map(Path, text_encoders) if one.is_dir()))
    return RowModelFile(family, file, prefix, clips, text=text, reading=reading, folders=folders)


def image_family(model: Path | str) -> Family | None:
    """The family of the image model in a file or folder; None where there is none that is known and can be read."""
    try:
        return family_of(_shapes(*_image_model(Path(model))))
    except (ModelFileError, DoorError, TensorFileError):
        return None


def _image_model(path: Path) -> tuple[Tensors, str]:
    """The tensors that hold the image model, and what stands before their names."""
    if path.is_dir():
        for folder in _FOLDERS:
            if (path / folder).is_dir():
                return folder_weights(path / folder, _FOLDER_FILES), ""
    else:
        file = opened_tensors(path)
        for prefix in _PREFIXES[:-1]:
            if any(name.startswith(prefix) for name in file.places):
                return file, prefix
        if _is_image_model(file):
            return file, ""
    raise ModelFileError(
        f"{path.name or path} holds no image model that can be edited. Expected a checkpoint (with {_PREFIXES[0]}...), "
        f"a file of an image model alone, or a diffusers folder (with {' or '.join(_FOLDERS)} in it), as safetensors."
    )


def _is_image_model(file: Tensors) -> bool:
    """Whether a file without a prefix is of a known family."""
    try:
        return bool(family_of(_shapes(file, "")))
    except DoorError:
        return False


def _shapes(file: Tensors, prefix: str) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix(prefix): place.shape for name, place in file.places.items() if name.startswith(prefix)}
