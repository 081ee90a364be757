"""Editing and tracing a model that diffusers has loaded: its pipelines' own objects, by what they hold."""

from .opened import OpenPipeline, PipelineError, open_pipeline
from .removal import apply_edit, remove_concept
from .tracing import PipelineTracer, TraceSettings, open_tracer, trace

__all__ = [
    "OpenPipeline",
    "PipelineError",
    "PipelineTracer",
    "TraceSettings",
    "apply_edit",
    "open_pipeline",
    "open_tracer",
    "remove_concept",
    "trace",
]
