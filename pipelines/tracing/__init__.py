"""Causal traces of diffusers pipelines: the runs of ``tracing`` by a pipeline's own call."""

from .settings import TraceSettings
from .tracer import PipelineTracer, open_tracer, trace

__all__ = ["PipelineTracer", "TraceSettings", "open_tracer", "trace"]
