"""Editing a model that diffusers has loaded: its pipelines' own objects, by what they hold."""

from .opened import OpenPipeline, PipelineError, open_pipeline
from .removal import remove_concept

__all__ = ["OpenPipeline", "PipelineError", "open_pipeline", "remove_concept"]
