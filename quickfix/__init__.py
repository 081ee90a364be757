"""Closed-form concept editing of CLIP text encoders (Diff-QuickFix), without ComfyUI.

    tower = TextTower.from_module(text_encoder)                      # transformers or ComfyUI
    tokenizer = PromptTokenizer(clip_tokenizer, pad_token=49407)
    edit = compute_edit(tower, tokenizer, [ConceptEdit("van gogh", "painting")], preset("guarded"))
    print(edit.report.text())
    weight += edit.delta()                                           # or save_file(edit.lora(), ...)
"""

from ..prompts import PromptError, PromptTokenizer, SubjectError
from .edit import GUARDED, PAPER, ConceptEdit, EditSettings, WeightEdit, compute_edit, preset
from .pairs import POSITIONS
from .report import EditReport, storage_rounding
from .solve import LowRank, SolveError, solve, solve_residual
from .tower import TextTower, TowerError, out_proj_name

__all__ = [
    "GUARDED",
    "PAPER",
    "POSITIONS",
    "ConceptEdit",
    "EditReport",
    "EditSettings",
    "LowRank",
    "PromptError",
    "PromptTokenizer",
    "SolveError",
    "SubjectError",
    "TextTower",
    "TowerError",
    "WeightEdit",
    "compute_edit",
    "out_proj_name",
    "preset",
    "solve",
    "solve_residual",
    "storage_rounding",
]
