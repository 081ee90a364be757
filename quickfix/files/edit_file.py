"""An edit as a file: a LoRA that any loader takes, with what made the edit in its metadata.

The tensors are those of :meth:`WeightEdit.lora`. The metadata's entry ``diff_quickfix`` is JSON: concepts, settings,
report, the edited weight and its hash, and the version of this pack; for an edit of an image model's doors also the
doors and the maps of the text states, from which the edit can be made for another model. Loaders that do not know it
ignore it; what they do read is in :mod:`.lora_labels`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ... import __version__
from ...families.clip import ENCODERS
from ...families.doors import LORA_NAMINGS, Door
from ...output.files import whole_file
from ...output.json_records import RecordError, from_json, parse, to_json
from ...output.tensors import write_tensors
from ..concepts.concept import ConceptEdit
from ..concepts.settings import EditSettings
from ..measure.report import EditReport
from ..measure.weight_edit import WeightEdit, lora_parts
from .door_records import StoredMap, door_updates, module_factors, stored_maps
from .lora_labels import lora_labels

# The formats of an edit of one text encoder, of doors, and of text encoders that earlier versions do not know, or of
# several of them.
SCHEMA, DOORS_SCHEMA, ENCODERS_SCHEMA = 1, 2, 3
_FIRST_ENCODERS = ("clip_l", "clip_h", "sdxl_clip_l", "sdxl_clip_g")
# Numbers that a file may hold, by the name that users choose them by.
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_ENTRY = "diff_quickfix"
_LARGEST_ENTRY = 50_000_000
_OUT_PROJ = r"encoder\.layers\.(\d{1,4})\.self_attn\.out_proj\.weight"
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class EditFileError(ValueError):
    """An edit file that cannot be written or read; the message says why and what to do."""


@dataclass(frozen=True)
class EditFile:
    """What a file holds.

    Attributes:
        edit: the edit, with its concepts, settings and report.
        naming: how the file calls the weight.
        version: of the pack that wrote it.
        energy: share of the computed edit's energy that was kept.
    """

    edit: WeightEdit
    naming: str
    version: str
    energy: float


@dataclass(frozen=True)
class _Part:
    """Another text encoder that is edited."""

    weight_name: str
    encoder: str
    base: str
    report: EditReport


@dataclass(frozen=True)
class _Label:
    """What the metadata holds."""

    schema: int
    version: str
    naming: str
    weight_name: str
    encoder: str
    base: str
    concepts: tuple[ConceptEdit, ...]
    settings: EditSettings
    report: EditReport
    energy: float = 1.0
    doors: tuple[Door, ...] = ()
    states: StoredMap | None = None
    pooled: StoredMap | None = None
    others: tuple[_Part, ...] = ()


def save_edit(
    edit: WeightEdit,
    path: Path | str,
    *,
    naming: str = "kohya",
    energy: float = 1.0,
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> None:
    """Write an edit as a LoRA file; it appears whole or not at all.

    Args:
        naming: how the weight is called, "kohya" (every loader knows it), "comfyui", or "diffusers".
        energy: share of the edit's energy to keep; below 1 the rank is cut by SVD (:meth:`WeightEdit.truncated`).
        dtype: of the factors: fp32, fp16 or bf16.
        overwrite: replace a file of this name.

    Raises:
        EditFileError: there is a file of this name already; it cannot be written; the edit does not fit into one.
        ValueError: unknown naming, energy out of range.
        DoorError: nobody reads this naming for a door of the edit.
    """
    path, edit = Path(path), edit.truncated(energy)
    if dtype not in _TYPES.values():
        raise ValueError(f"dtype is {dtype}; expected float32, float16 or bfloat16.")
    tensors = edit.lora(naming=naming, dtype=dtype)
    maps = stored_maps(edit) if edit.of_states else (None, None)
    label = _Label(
        _schema(edit),
        __version__,
        naming,
        edit.weight_name,
        edit.encoder,
        edit.base,
        edit.concepts,
        edit.settings,
        edit.report,
        energy,
        tuple(update.door for update in edit.doors),
        states=maps[0],
        pooled=maps[1],
        others=tuple(_Part(other.weight_name, other.encoder, other.base, other.report) for other in edit.others),
    )
    text = json.dumps(to_json(label))
    if len(text) > _LARGEST_ENTRY:
        raise EditFileError(f"The edit's concepts take {len(text)} characters; a file holds {_LARGEST_ENTRY}.")
    try:
        with whole_file(path, overwrite=overwrite) as part:
            write_tensors(part, tensors, {"format": "pt", **lora_labels(edit, naming), _ENTRY: text})
    except FileExistsError as error:
        raise EditFileError(str(error)) from None
    except (SafetensorError, OSError) as error:
        raise EditFileError(f"Cannot write {path.name} ({error}). Is there such a folder, with room left?") from error


def _schema(edit: WeightEdit) -> int:
    if edit.of_states:
        return DOORS_SCHEMA
    return ENCODERS_SCHEMA if edit.others or edit.encoder not in _FIRST_ENCODERS else SCHEMA


def is_edit_file(path: Path | str) -> bool:
    """Whether a file is an edit that this pack has saved, by its metadata alone."""
    try:
        with safe_open(path, "pt") as file:
            return _ENTRY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def load_edit(path: Path | str) -> WeightEdit:
    """The edit in a file; see :func:`read_edit_file`."""
    return read_edit_file(path).edit


def read_edit_file(path: Path | str) -> EditFile:
    """Read an edit file, whatever its naming; it may come from a stranger, so everything is checked.

    Raises:
        EditFileError: there is no such file; it is damaged, no edit of this pack, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise EditFileError(f"There is no file {path.name}.")
    text, types, tensors = _read(path)
    try:
        label = _label(text, path.name)
        named = {name: tensors.get(name) for name in types}
        if strange := [name for name in types if types[name] not in _TYPES]:
            raise RecordError(f"{strange[0]} is of type {types[strange[0]]}; expected one of {', '.join(_TYPES)}")
        edit = _edit_of_doors(label, named) if label.schema == DOORS_SCHEMA else _edit_of_weight(label, types, tensors)
    except RecordError as error:
        raise EditFileError(f"{path.name} is damaged: {error}. Take another copy.") from error
    return EditFile(edit, label.naming, label.version, label.energy)


def _edit_of_weight(label: _Label, types: dict[str, str], tensors: dict[str, torch.Tensor]) -> WeightEdit:
    parts = (_Part(label.weight_name, label.encoder, label.base, label.report), *label.others)
    _check_names(parts, label.naming, types, tensors)
    edits = []
    for part in parts:
        up, down = module_factors(
            ENCODERS[part.encoder].lora_key(part.weight_name, label.naming), tensors, label.naming
        )
        # A module may be of a higher rank in the file than its edit is.
        rank = 1 + max((place for place, column in enumerate(up.T) if column.any()), default=-1)
        if not rank or label.others:
            up, down = up[:, :rank], down[:rank]
        edits.append(
            WeightEdit(part.weight_name, up, down, label.concepts, label.settings, part.report, part.encoder, part.base)
        )
    return WeightEdit.joined(edits)


def _edit_of_doors(label: _Label, tensors: dict[str, torch.Tensor | None]) -> WeightEdit:
    states, pooled, doors = door_updates(
        label.encoder, label.naming, label.doors, (label.states, label.pooled), tensors
    )
    return WeightEdit(
        label.weight_name,
        states.up,
        states.down,
        label.concepts,
        label.settings,
        label.report,
        label.encoder,
        label.base,
        pooled,
        doors,
    )


def _read(path: Path) -> tuple[str, dict[str, str], dict[str, torch.Tensor]]:
    """The metadata's entry, and the types and values of the tensors; other files are not read any further."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(_ENTRY)
            if text is None or len(text) > _LARGEST_ENTRY:
                raise EditFileError(
                    f"{path.name} is a safetensors file, but not an edit saved by this pack. Choose one that "
                    '"Save Edit as LoRA" or "diff-quickfix edit" wrote; load other LoRAs with a LoRA loader.'
                )
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            return text, types, {name: file.get_tensor(name) for name, kind in types.items() if kind in _TYPES}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise EditFileError(f"{path.name} is damaged or no safetensors file ({error}). Take another copy.") from error


def _label(text: str, name: str) -> _Label:
    fields: Any = parse(text)
    schema = fields.get("schema") if isinstance(fields, dict) else None
    if type(schema) is not int or schema < 1:
        raise RecordError("its metadata has no format number")
    if schema > ENCODERS_SCHEMA:
        raise EditFileError(
            f"{name} was written by a newer version of this pack (format {schema}, this one reads up to "
            f"{ENCODERS_SCHEMA}). Update the pack."
        )
    label = from_json(_Label, fields, "metadata")
    if not label.concepts:
        raise RecordError("it names no concept")
    if schema == DOORS_SCHEMA:
        return label
    encoders = [label.encoder, *(other.encoder for other in label.others)]
    unknown = [encoder for encoder in encoders if encoder not in ENCODERS]
    if unknown or label.naming not in LORA_NAMINGS:
        raise RecordError(f"unknown text encoder {(unknown or encoders)[0][:80]!r} or naming {label.naming[:80]!r}")
    if len(set(encoders)) < len(encoders) or len({ENCODERS[encoder].family for encoder in encoders}) > 1:
        raise RecordError(f"its text encoders {', '.join(encoders)[:200]} are not those of one model")
    for weight_name in (label.weight_name, *(other.weight_name for other in label.others)):
        match = re.fullmatch(_OUT_PROJ, weight_name)
        if match is None or int(match[1]) != label.settings.layer:
            raise RecordError(f"layer {label.settings.layer} was not edited in {weight_name[:80]!r}")
    return label


def _parts(key: str, naming: str) -> list[str]:
    """The names of one module's tensors."""
    return [f"{key}.{part}" for part in lora_parts(naming)]


def _check_names(parts: Sequence[_Part], naming: str, types: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    """Refuse a file that holds more or fewer tensors than an edit, or changes what it does not edit (RecordError)."""
    names: list[str] = []
    beside: list[str] = []
    for part in parts:
        encoder = ENCODERS[part.encoder]
        names += _parts(encoder.lora_key(part.weight_name, naming), naming)
        for module in encoder.idle_modules(part.weight_name, naming, 0):
            beside += _parts(module, naming)
    idle = sorted(set(beside) - set(names))
    # Files of earlier versions hold no idle modules.
    if sorted(types) not in (sorted(names), sorted([*names, *idle])):
        raise RecordError(f"it holds the tensors {', '.join(sorted(types))[:200]}; expected {', '.join(names)}")
    if moving := [name for name in idle if not name.endswith(".alpha") and name in tensors and tensors[name].any()]:
        raise RecordError(f"it changes {moving[0]} too, which an edit of this pack does not")
