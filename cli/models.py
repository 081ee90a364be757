"""A model on disk as the commands see it: a text encoder, or an image model that is edited where its text enters."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import torch

from ..quickfix import (
    ALIGNED,
    BREADTH_CHOICES,
    ENCODERS,
    ConceptEdit,
    EditReport,
    EditSettings,
    ImageModelFile,
    LowRank,
    SeveralEncodersError,
    StateTower,
    TextEncoderFile,
    WeightEdit,
    compute_edit,
    edit_doors,
    image_family,
    measure_edit,
    measure_final,
    open_image_model,
    open_text_encoder,
    preset,
    require_fit,
    way_of,
    weight_hash,
)
from ..quickfix.edit import report_at
from ..quickfix.encoder.tower import solving_device
from ..quickfix.files.text_encoder_file import Tensors
from ..text.prompts import PromptTokenizer
from .arguments import POSITIONS, SHORT_ENCODERS
from .device import device_named

Progress = Callable[[int, int], None]


class OpenModel(Protocol):
    """A model on disk, and what is edited of it."""

    part: str
    """What is edited, for people."""
    notes: tuple[str, ...]
    """Warnings."""

    @property
    def file(self) -> Tensors: ...

    @property
    def tokenizer(self) -> PromptTokenizer: ...

    def computed(
        self, concepts: Sequence[ConceptEdit], settings: EditSettings, progress: Progress | None
    ) -> WeightEdit: ...

    def report_at(self, edit: WeightEdit, strength: float) -> EditReport:
        """The report of an edit that was computed here."""
        ...

    def measured(self, edit: WeightEdit, strength: float) -> EditReport:
        """The report of any edit."""
        ...

    def made_here(self, edit: WeightEdit) -> bool:
        """Whether an edit was computed from this model."""
        ...

    def deltas(self, edit: WeightEdit, strength: float) -> Mapping[str, torch.Tensor]: ...

    def described(self, edit: WeightEdit) -> dict[str, Any]:
        """What an edit changes in the file, ready for JSON."""
        ...


class EncoderModel:
    """A text encoder."""

    part = "text encoder"

    def __init__(self, encoder: TextEncoderFile, folder: str | None, device: torch.device) -> None:
        where = solving_device(device)
        self._encoder = dataclasses.replace(encoder, tower=dataclasses.replace(encoder.tower, device=where))
        self._folder = folder
        self._made: PromptTokenizer | None = None
        self.notes: tuple[str, ...] = ()
        if not ENCODERS[encoder.encoder].causal:
            self.notes = (
                f"{encoder.encoder} is one of SDXL's text encoders. They hold no single causal state (arXiv "
                "2405.01008): the edit may well leave the concept in the pictures.",
            )
        if where != device:
            self.notes += (f"{device.type} has no fp64, in which an edit is solved: it is computed on the CPU.",)

    @property
    def file(self) -> Tensors:
        return self._encoder.file

    @property
    def tokenizer(self) -> PromptTokenizer:
        self._made = self._made or self._encoder.tokenizer(self._folder)
        return self._made

    def computed(
        self, concepts: Sequence[ConceptEdit], settings: EditSettings, progress: Progress | None
    ) -> WeightEdit:
        return compute_edit(self._encoder.tower, self.tokenizer, concepts, settings, progress=progress)

    def require_fit(self, edit: WeightEdit) -> None:
        require_fit(self._encoder.tower, edit)

    def report_at(self, edit: WeightEdit, strength: float) -> EditReport:
        return self._stored(edit, report_at(self._encoder.tower, self.tokenizer, edit, strength), strength)

    def measured(self, edit: WeightEdit, strength: float) -> EditReport:
        measured = measure_edit(self._encoder.tower, self.tokenizer, edit, strength)
        update = LowRank(edit.up * strength, edit.down)
        final = measure_final(self._encoder.tower, edit.settings.layer, update, self.tokenizer)
        return self._stored(edit, measured.with_final(final), strength)

    def made_here(self, edit: WeightEdit) -> bool:
        return weight_hash(self._encoder.tower.weight(edit.weight_name)) == edit.base

    def deltas(self, edit: WeightEdit, strength: float) -> Mapping[str, torch.Tensor]:
        return self._encoder.deltas(edit, strength)

    def described(self, edit: WeightEdit) -> dict[str, Any]:
        return {"tensor": self._encoder.stored_name(edit.weight_name)}

    def _stored(self, edit: WeightEdit, report: EditReport, strength: float) -> EditReport:
        """The report, with what rounding to the file's own dtype costs."""
        name = edit.weight_name
        weight, dtype = self._encoder.tower.weight(name), self._encoder.stored_dtype(name)
        return report.with_storage(weight, edit.delta(strength), dtype)


class DoorModel:
    """An image model, edited at its doors.

    Args:
        names: shell patterns of doors; None for those that the family edits by default.
        edit: an edit whose doors are taken instead.
        folder: of the vocabulary.
        device: where the text encoders run; an edit is solved there too where there is fp64.

    Raises:
        DoorError, ModelFileError, TensorFileError: see :meth:`ImageModelFile.doors` and :meth:`~.doors_of`.
    """

    part = "image model"
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        model: ImageModelFile,
        folder: str | None,
        device: torch.device,
        names: str | None = None,
        edit: WeightEdit | None = None,
    ) -> None:
        self.model = model
        self._doors = model.doors(names) if edit is None else model.doors_of(edit)
        self.tokenizer = model.tokenizer(folder)
        self._states = model.prompt_states(self.tokenizer, device, folder).remembering()

    @cached_property
    def _tower(self) -> StateTower:
        return self._states.tower()

    @property
    def file(self) -> Tensors:
        return self.model.file

    def computed(
        self, concepts: Sequence[ConceptEdit], settings: EditSettings, progress: Progress | None
    ) -> WeightEdit:
        return edit_doors(
            self._tower,
            self.tokenizer,
            concepts,
            settings,
            self._doors,
            self.model.read,
            read_pooled=self._states.pooled,
            progress=progress,
        )

    def report_at(self, edit: WeightEdit, strength: float) -> EditReport:
        report = report_at(self._tower, self.tokenizer, edit, strength)
        return self._stored(edit, report, strength)

    def measured(self, edit: WeightEdit, strength: float) -> EditReport:
        report = measure_edit(self._tower, self.tokenizer, edit, strength)
        return self._stored(edit, report, strength)

    def made_here(self, edit: WeightEdit) -> bool:
        return weight_hash(self.model.read(self._doors[0])) == edit.base

    def deltas(self, edit: WeightEdit, strength: float) -> Mapping[str, torch.Tensor]:
        return self.model.deltas(edit, strength)

    def described(self, edit: WeightEdit) -> dict[str, Any]:
        return {"tensors": [self.model.stored_name(door) for door in self._doors]}

    def _stored(self, edit: WeightEdit, report: EditReport, strength: float) -> EditReport:
        """The report, with what rounding the first door to the file's own dtype costs."""
        factors, door = edit.factors(edit.doors[0]), self._doors[0]
        delta = (factors.up * strength) @ factors.down
        return report.with_storage(self.model.read(door).float(), delta, self.model.stored_dtype(door))


def open_for_edit(options: argparse.Namespace, kind: str) -> tuple[OpenModel, EditSettings, str]:
    """The model to edit, how, and a line on the way where it was chosen for the user.

    Args:
        kind: of the concepts.

    Raises:
        ValueError: options that the way does not have; a model that does not have the way.
    """
    way = options.way.replace("-", " ") if options.way else ""
    if options.doors is not None:
        way = "image model"
    if options.encoder:
        way = "text encoder"
    family = None if way else image_family(options.model)
    if options.text_encoder or (family is not None and not family.name.startswith(("sd1", "sd2"))):
        # What such a model has of CLIP is no text encoder of Stable Diffusion 1.x.
        way = way or "auto"
    if not way:
        try:
            return _encoder(options), _encoder_settings(options), ""
        except SeveralEncodersError:
            if family is None:
                raise
            way = "auto"
    if way == "text encoder":
        return _encoder(options), _encoder_settings(options), ""
    image_model = open_image_model(options.model, options.text_encoder)
    chosen = way_of(image_model.family, kind, way)
    said = chosen.text(image_model.family) if way == "auto" else ""
    if not chosen.by_doors:
        return _encoder(options), _encoder_settings(options), said
    settings = _door_settings(options, chosen.settings)
    return DoorModel(image_model, options.tokenizer, device_named(options.device), options.doors), settings, said


def open_for_file(options: argparse.Namespace, edit: WeightEdit) -> OpenModel:
    """The model for an edit out of a file.

    Raises:
        ValueError: the edit does not fit the model.
    """
    if edit.of_states:
        _check_energy(options)
        image_model = open_image_model(options.model, options.text_encoder)
        return DoorModel(image_model, options.tokenizer, device_named(options.device), edit=edit)
    encoder = _encoder(options, _name(options) or _fitting(edit))
    encoder.require_fit(edit)
    return encoder


def _encoder(options: argparse.Namespace, name: str | None = None) -> EncoderModel:
    found = open_text_encoder(options.model, name or _name(options))
    return EncoderModel(found, options.tokenizer, device_named(options.device))


def _name(options: argparse.Namespace) -> str | None:
    return SHORT_ENCODERS.get(options.encoder, options.encoder)


def _fitting(edit: WeightEdit) -> str | None:
    """The encoder to look for: only SDXL's are one of several."""
    return None if ENCODERS[edit.encoder].causal else edit.encoder


def _encoder_settings(options: argparse.Namespace) -> EditSettings:
    base = preset(options.preset)
    lam = base.lam if options.lam is None else options.lam
    positions = POSITIONS[options.positions or "padding"]
    breadth = BREADTH_CHOICES[options.breadth]
    changed = dataclasses.replace(base, layer=options.layer, lam=lam, positions=positions, breadth=breadth)
    return changed.keeping(options.preserve).keeping(options.hold, "hard")


def _check_energy(options: argparse.Namespace) -> None:
    if getattr(options, "energy", 1) != 1:
        raise ValueError(
            f"--energy {options.energy} is about text encoders; an edit of the image model is small already."
        )


def _door_settings(options: argparse.Namespace, base: EditSettings) -> EditSettings:
    """The settings of an edit of doors.

    Raises:
        ValueError: an option that is about text encoders alone.
    """
    if options.layer:
        raise ValueError(
            f"--layer {options.layer} is about text encoders; the image model is edited where text enters."
        )
    if options.preset == "paper":
        raise ValueError(
            "--preset paper is about text encoders, as its settings were published; take guarded or auto for the image "
            "model."
        )
    _check_energy(options)
    if options.positions is not None and base.positions == ALIGNED:
        raise ValueError(
            f"--positions {options.positions} is about text encoders that read from left to right; in this one every "
            "token knows all others, and whole captions are edited. Leave it out."
        )
    lam = None if options.preset == "auto" else base.lam
    lam = lam if options.lam is None else options.lam
    positions = base.positions if options.positions is None else POSITIONS[options.positions]
    changed = dataclasses.replace(base, lam=lam, positions=positions, breadth=BREADTH_CHOICES[options.breadth])
    return changed.keeping(options.preserve).keeping(options.hold, "hard")
