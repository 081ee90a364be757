"""The nodes, gathered."""

from __future__ import annotations

from .api import ComfyExtension, io
from .concepts import AddConceptEdit, ConceptEditList
from .edit import DiffQuickFixEdit
from .edit_files import LoadEdit, SaveEditAsLoRA
from .guard import CollateralRadar, EditReportNode, FindLambda, PreserveSet
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
    SaveEditAsLoRA,
    LoadEdit,
    ConceptEditList,
    AddConceptEdit,
    PreserveSet,
    CollateralRadar,
    FindLambda,
    EditReportNode,
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
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
