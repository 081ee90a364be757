"""Editing a model that diffusers has loaded: its pipelines' own objects, by what they hold."""

from .opened import OpenPipeline, PipelineError, open_pipeline
from .removal import apply_edit, remove_concept

__all__ = ["OpenPipeline", "PipelineError", "apply_edit", "open_pipeline", "remove_concept"]
