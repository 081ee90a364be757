"""The one import of ComfyUI's node API, by its numbered version."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comfy_api.v0_0_2 import ComfyExtension, io

from ..quickfix import EditReport, WeightEdit
from .host.connected import is_empty, require_inputs
from .host.files import shown_path

__all__ = [
    "CausalTraceType",
    "ComfyExtension",
    "ConceptEditsType",
    "CorruptionType",
    "ImageScorerType",
    "Node",
    "WeightEditType",
    "edit_output",
    "image_of",
    "io",
    "report_ui",
    "reporting",
    "saved_ui",
    "schema",
]

WeightEditType = io.Custom("WEIGHT_EDIT")
ConceptEditsType = io.Custom("CONCEPT_EDITS")
CorruptionType = io.Custom("CORRUPTION")
CausalTraceType = io.Custom("CAUSAL_TRACE")
ImageScorerType = io.Custom("IMAGE_SCORER")


class Node(io.ComfyNode):
    """A node of the pack: before its work begins, inputs that have to be connected and are empty are refused."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = cls.__dict__.get("execute")
        # ComfyUI runs a node in a class derived from it.
        if isinstance(own, classmethod) and not hasattr(own.__func__, "checks_inputs"):
            cls.execute = classmethod(_checking_inputs(own.__func__))


def _checking_inputs(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    names = tuple(inspect.signature(execute).parameters)[1:]

    @functools.wraps(execute)
    def run(cls: type[Node], *args: Any, **kwargs: Any) -> io.NodeOutput:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if any(map(is_empty, given.values())):
            shown = cls.define_schema()
            kinds = {entry.id: entry.io_type for entry in shown.inputs if not getattr(entry, "optional", False)}
            require_inputs(shown.display_name, kinds, given)
        return execute(cls, *args, **kwargs)

    run.checks_inputs = True
    return run


def image_of(pixels: np.ndarray) -> torch.Tensor:
    """A drawing (height, width, 3) uint8 as an IMAGE (1, height, width, 3) in [0, 1]."""
    return torch.from_numpy(pixels.copy())[None].float() / 255


def report_ui(report: str, measures: dict[str, Any] | None = None) -> dict[str, list[Any]]:
    """What a node returns for the page to show its report: the text, and the numbers behind it."""
    return {"diff_quickfix_report": [report] if measures is None else [report, measures]}


def saved_ui(path: Path) -> dict[str, list[Any]]:
    """What a node returns for the page to say where a file lies, and its size in bytes."""
    return {"diff_quickfix_saved": [{"file": shown_path(path), "bytes": path.stat().st_size}]}


def reporting(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """For the `execute` of a node that shows a report: tells the page the settings that the report was made with, so
    that it can say when the node's widgets have others."""
    names = tuple(inspect.signature(execute).parameters)

    @functools.wraps(execute)
    def run(*args: Any, **kwargs: Any) -> io.NodeOutput:
        output = execute(*args, **kwargs)
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        settings = {name: value for name, value in given.items() if isinstance(value, str | int | float)}
        output.ui = {**output.ui, "diff_quickfix_settings": [settings]}
        return output

    return run


def edit_output(
    clip: Any, edit: WeightEdit, reports: Sequence[EditReport] | None = None, note: str = ""
) -> io.NodeOutput:
    """What the nodes that edit give: the CLIP, the edit, the report in words. On the page it has bars, unless a note
    stands before it, which they would hide, or several text encoders have a report each.

    Args:
        reports: those of the edit's parts; by default their own.
    """
    reports = [part.report for part in edit.parts] if reports is None else reports
    text = note + "\n\n".join(report.text() for report in reports)
    shown = None if note or len(reports) > 1 else reports[0].as_dict()
    return io.NodeOutput(clip, edit, text, ui=report_ui(text, shown))


def schema(**fields: Any) -> io.Schema:
    """A node's schema, without the fields that the running ComfyUI does not know yet (all of them cosmetic)."""
    return io.Schema(**{name: value for name, value in fields.items() if name in io.Schema.__dataclass_fields__})
