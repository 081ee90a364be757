"""Diff-QuickFix: find where a text-to-image model keeps a piece of knowledge, and edit it in closed form.

The door of the pack. ComfyUI calls :func:`comfy_entrypoint`. Python programs, without ComfyUI, find the editor here::

    from diff_quickfix import ConceptEdit, compute_edit, open_text_encoder, preset, save_edit

    encoder = open_text_encoder("sd15.safetensors")
    edit = compute_edit(
        encoder.tower, encoder.tokenizer(), [ConceptEdit("van gogh", "painting")], preset("guarded")
    )
    print(edit.report.text())
    save_edit(edit, "fix.safetensors")

``__all__`` is the public surface; each name is imported when it is first used. ``diff_quickfix.tracing`` is the tracer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .nodes import DiffQuickFixExtension
    from .pipelines import PipelineError, TraceSettings, open_tracer, remove_concept, trace
    from .quickfix import (
        Changes,
        ConceptEdit,
        ConceptList,
        ConceptListError,
        EditFileError,
        EditReport,
        EditSettings,
        ImageModelFile,
        Ledger,
        LedgerError,
        ModelFileError,
        SolveError,
        TargetRanking,
        TensorFile,
        TensorFileError,
        TextEncoderFile,
        TextTower,
        TowerError,
        WeightEdit,
        compute_edit,
        edit_doors,
        find_lambda,
        find_target,
        load_edit,
        measure_edit,
        open_image_model,
        open_text_encoder,
        parse_changes,
        parse_concepts,
        preset,
        save_edit,
        scan,
    )
    from .text.prompts import PromptError, PromptTokenizer
    from .text.subjects import SubjectError

WEB_DIRECTORY = "./web"
__version__ = "0.1.0"
__all__ = [
    "Changes",
    "ConceptEdit",
    "ConceptList",
    "ConceptListError",
    "EditFileError",
    "EditReport",
    "EditSettings",
    "ImageModelFile",
    "Ledger",
    "LedgerError",
    "ModelFileError",
    "PipelineError",
    "PromptError",
    "PromptTokenizer",
    "SolveError",
    "SubjectError",
    "TargetRanking",
    "TensorFile",
    "TensorFileError",
    "TextEncoderFile",
    "TextTower",
    "TowerError",
    "TraceSettings",
    "WeightEdit",
    "compute_edit",
    "edit_doors",
    "find_lambda",
    "find_target",
    "load_edit",
    "measure_edit",
    "open_image_model",
    "open_text_encoder",
    "open_tracer",
    "parse_changes",
    "parse_concepts",
    "preset",
    "remove_concept",
    "save_edit",
    "scan",
    "trace",
]


def __getattr__(name: str) -> Any:
    # ComfyUI asks every pack for names that it may not have, so an unknown one must cost no import.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "SubjectError":
        from .text import subjects as room
    elif name in ("PromptError", "PromptTokenizer"):
        from .text import prompts as room
    elif name in ("PipelineError", "TraceSettings", "open_tracer", "remove_concept", "trace"):
        from . import pipelines as room
    else:
        from . import quickfix as room
    return getattr(room, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


async def comfy_entrypoint() -> DiffQuickFixExtension:
    from .nodes import DiffQuickFixExtension

    return DiffQuickFixExtension()
