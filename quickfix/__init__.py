"""Diff-QuickFix: edit a concept of a CLIP text encoder in closed form.

    tower = TextTower.from_module(text_model)
    tokenizer = PromptTokenizer(clip_tokenizer, pad_token=49407)
    edit = compute_edit(tower, tokenizer, [ConceptEdit("van gogh", "painting")], preset("guarded"))
    print(edit.report.text())
    weight += edit.delta()   # the weight that edit.weight_name names

Computing an edit never changes a model. The method: Basu et al., ICLR 2024, arXiv 2310.13730.
"""

from .edit import compute_edit
from .edit_file import EditFile, EditFileError, load_edit, read_edit_file, save_edit
from .encoders import ENCODERS, NAMINGS, Encoder
from .everyday import EVERYDAY, PRESERVED
from .measure import measure_edit
from .pairs import POSITIONS, TokenPairs, match_positions, pair_tokens
from .records import to_json
from .report import EditReport, StorageRounding, measure_effect, storage_rounding
from .request import GUARDED, PAPER, PRESETS, ConceptEdit, EditSettings, preset
from .solve import LowRank, SolveError, Statistics, solve, solve_residuals
from .tensor_file import TensorFile, TensorFileError
from .text_encoder_file import ModelFileError, TextEncoderFile, open_text_encoder
from .tower import AttentionStates, TextTower, TowerError
from .weight_edit import WeightEdit, weight_hash

__all__ = [
    "ENCODERS",
    "EVERYDAY",
    "GUARDED",
    "NAMINGS",
    "PAPER",
    "POSITIONS",
    "PRESERVED",
    "PRESETS",
    "AttentionStates",
    "ConceptEdit",
    "EditFile",
    "EditFileError",
    "EditReport",
    "EditSettings",
    "Encoder",
    "LowRank",
    "ModelFileError",
    "SolveError",
    "Statistics",
    "StorageRounding",
    "TensorFile",
    "TensorFileError",
    "TextEncoderFile",
    "TextTower",
    "TokenPairs",
    "TowerError",
    "WeightEdit",
    "compute_edit",
    "load_edit",
    "match_positions",
    "measure_edit",
    "measure_effect",
    "open_text_encoder",
    "pair_tokens",
    "preset",
    "read_edit_file",
    "save_edit",
    "solve",
    "solve_residuals",
    "storage_rounding",
    "to_json",
    "weight_hash",
]
