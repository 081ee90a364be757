"""The nodes, gathered."""

from __future__ import annotations

from .api import ComfyExtension, io
from .edit import DiffQuickFixEdit
from .shapes import LoadShapesDemo
from .trace import (
    CausalTraceText,
    CausalTraceUNet,
    ClipScore,
    CorruptPrompt,
    RestoreTextState,
    RestoreUNetState,
    ShapesScorerNode,
)
from .trace_result import CausalHeatmap, CompareTraces, LoadTrace, LocateCausalState, SaveTrace

NODES: list[type[io.ComfyNode]] = [
    DiffQuickFixEdit,
    CorruptPrompt,
    RestoreTextState,
    RestoreUNetState,
    CausalTraceText,
    CausalTraceUNet,
    CausalHeatmap,
    LocateCausalState,
    SaveTrace,
    LoadTrace,
    CompareTraces,
    ShapesScorerNode,
    ClipScore,
    LoadShapesDemo,
]


class DiffQuickFixExtension(ComfyExtension):
    async def on_load(self) -> None:
        from .host.routes import add_routes

        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
