"""The nodes, gathered."""

from __future__ import annotations

from .api import ComfyExtension, io
from .change import ChangeEdit
from .concepts import AddConceptEdit, ConceptEditList
from .corrupt import CorruptPrompt, RestoreTextState, RestoreUNetState
from .edit import DiffQuickFixEdit
from .edit_files import LoadEdit, SaveEditAsLoRA
from .find import FindLambda, FindTarget
from .guard import CollateralRadar, EditReportNode, PreserveSet
from .remove_concept import ApplyEditToConditioning, EditImageModel, RemoveConcept
from .score import BeforeAfterSheet, ClipScore, ClipVisionScorer, LoadClipScorer, ShapesScorerNode
from .shapes import LoadShapesDemo
from .trace import CausalTraceText, CausalTraceUNet
from .trace_result import CausalHeatmap, CompareTraces, LoadTrace, LocateCausalState, SaveTrace

NODES: list[type[io.ComfyNode]] = [
    DiffQuickFixEdit,
    ConceptEditList,
    AddConceptEdit,
    PreserveSet,
    CollateralRadar,
    FindLambda,
    FindTarget,
    EditReportNode,
    SaveEditAsLoRA,
    LoadEdit,
    ChangeEdit,
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
    LoadClipScorer,
    ClipVisionScorer,
    ClipScore,
    LoadShapesDemo,
    RemoveConcept,
    EditImageModel,
    ApplyEditToConditioning,
    BeforeAfterSheet,
]


class DiffQuickFixExtension(ComfyExtension):
    async def on_load(self) -> None:
        from .host.breadth import keep_grams
        from .host.routes import add_routes

        keep_grams()
        add_routes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
