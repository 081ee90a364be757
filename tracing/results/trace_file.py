"""The file of a causal trace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...families.unet import site_names
from ...output.files import whole_file
from ...output.tensors import write_tensors
from .examples import Examples
from .trace import PROBES, TENSORS, CausalTrace, TraceError

# Files of traces with another probe than restoring are of format 2: earlier versions would take them for that.
SCHEMA = 2


_LABELS = (
    "component",
    "sites",
    "columns",
    "column_axis",
    "prompts",
    "subjects",
    "seeds",
    "draws",
    "score",
    "settings",
)


_LARGEST_HEADER = 10_000_000


def save_trace(trace: CausalTrace, path: Path, *, overwrite: bool = False) -> None:
    """Write a safetensors file: the scores as tensors, all else as JSON in its metadata.

    The file appears whole or not at all.

    Raises:
        TraceError: there is a file of this name already, and ``overwrite`` is not set; the settings are no JSON
            values; the file cannot be written.
    """
    path = Path(path)
    try:
        probe = {} if trace.probe == PROBES[0] else {"probe": trace.probe}
        labels = {"schema": SCHEMA if probe else 1, **{name: getattr(trace, name) for name in _LABELS}, **probe}
        text = json.dumps({**labels, "examples": trace.examples.labels()} if trace.examples else labels)
    except (TypeError, ValueError, RecursionError) as error:
        raise TraceError(f"The trace's labels and settings are no JSON values: {error}. Use plain ones.") from error
    if len(text) > _LARGEST_HEADER:
        raise TraceError(f"The trace's labels take {len(text)} characters; a file holds {_LARGEST_HEADER}.")
    try:
        tensors = {name: getattr(trace, name) for name in TENSORS}
        with whole_file(path, overwrite=overwrite) as part:
            write_tensors(part, tensors, {"format": "pt", "causal_trace": text})
    except FileExistsError as error:
        raise TraceError(str(error)) from None
    except (SafetensorError, OSError) as error:
        raise TraceError(f"Cannot write {path.name} ({error}). Is there such a folder, with room left?") from error


def load_trace(path: Path) -> CausalTrace:
    """Read a trace file; it may come from a stranger, so everything is checked.

    Raises:
        TraceError: there is no such file, it is damaged, no trace, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise TraceError(f"There is no trace file {path.name}.")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("causal_trace")
            held = [name for name in TENSORS if name in file.keys()]  # noqa: SIM118
            types = {name: file.get_slice(name).get_dtype() for name in held}
            tensors = {name: file.get_tensor(name) for name in held if types[name] == "F32"}
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise TraceError(f"{path.name} is damaged or no safetensors file ({error}). Take another copy.") from error
    if text is None or len(text) > _LARGEST_HEADER:
        raise TraceError(f"{path.name} is a safetensors file, but not a causal trace. Choose one saved as a trace.")
    for name, kind in types.items():
        if kind != "F32":
            raise TraceError(f"{path.name} holds {name} as {kind}; expected float32 scores. Take another copy.")
    try:
        labels = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path.name} has damaged metadata ({error}). Take another copy.") from error
    return _from_labels(labels, tensors, path.name)


def _from_labels(labels: Any, tensors: dict[str, torch.Tensor], name: str) -> CausalTrace:
    if not isinstance(labels, dict) or type(labels.get("schema")) is not int or labels["schema"] < 1:
        raise TraceError(f"{name} has damaged metadata: no format number. Take another copy.")
    if labels["schema"] > SCHEMA:
        raise TraceError(
            f"{name} was written by a newer version of this pack (format {labels['schema']}, this one reads {SCHEMA}). "
            "Update the pack."
        )
    missing = [tensor for tensor in TENSORS if tensor not in tensors]
    if missing:
        raise TraceError(f"{name} lacks the scores {', '.join(missing)}. Take another copy.")
    fields: dict[str, Any] = {
        key: _strings(labels.get(key), key, name) for key in ("sites", "columns", "prompts", "subjects")
    }
    # Earlier versions counted a UNet's blocks as ComfyUI does.
    fields["sites"] = site_names(fields["sites"])
    plain = {key: labels.get(key) for key in ("component", "column_axis", "score")}
    plain["probe"] = labels.get("probe", PROBES[0])
    fields |= plain | tensors
    seeds, draws, settings = labels.get("seeds"), labels.get("draws"), labels.get("settings")
    if (
        not all(isinstance(value, str) for value in plain.values())
        or not isinstance(seeds, list)
        or not all(type(seed) is int for seed in seeds)
        or type(draws) is not int
        or not isinstance(settings, dict)
    ):
        raise TraceError(f"{name} has damaged metadata: a label is missing or of another type. Take another copy.")
    try:
        examples = None if labels.get("examples") is None else Examples.from_labels(labels["examples"])
        return CausalTrace(**fields, seeds=tuple(seeds), draws=draws, settings=settings, examples=examples)
    except ValueError as error:
        raise TraceError(f"{name} is damaged: {error}") from error


def _strings(value: Any, key: str, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise TraceError(f"{name} has damaged metadata: {key} is not a list of texts.")
    return tuple(value)
