"""Diff-QuickFix: edit a concept of a CLIP text encoder in closed form.

    tower = TextTower.from_module(text_model)
    tokenizer = PromptTokenizer(clip_tokenizer, pad_token=49407)
    edit = compute_edit(tower, tokenizer, [ConceptEdit("van gogh", "painting")], preset("guarded"))
    print(edit.report.text())
    weight += edit.delta()   # the weight that edit.weight_name names

Computing an edit never changes a model. The method: Basu et al., ICLR 2024, arXiv 2310.13730.
"""

from .changes import Changes, parse_changes
from .concept_list import ConceptList, ConceptListError, combine, parse_concepts, read_concepts, text_of_concepts
from .edit import compute_edit, find_lambda, measure_edit
from .edit_file import PRECISIONS, EditFile, EditFileError, load_edit, read_edit_file, save_edit
from .encoders import ENCODERS, NAMINGS, Encoder
from .everyday import EVERYDAY, PRESERVE_SETS, PRESERVED
from .guard import Guard, build_guard, preserve_set, prompts_of_text, text_of_prompts
from .heldout import HELD_OUT_TEMPLATES
from .ledger import Ledger, LedgerError
from .model_folder import FolderCopy, check_folder, copy_folder
from .nullspace import HeldError, HeldSpan
from .pairs import POSITIONS, TokenPairs, match_positions, pair_tokens
from .radar import KNOWN_NAMES, Hit, Radar, scan
from .records import to_json
from .report import (
    EditReport,
    FinalStates,
    Guarding,
    Probe,
    StorageRounding,
    measure_effect,
    measure_final,
    storage_rounding,
)
from .request import AUTO, GUARDED, PAPER, PRESERVE_MODES, PRESETS, ConceptEdit, EditSettings, preset
from .solve import LowRank, SolveError, Statistics, preserved_gram, solve, solve_residuals
from .targets import PLAIN_WORDS, Candidate, TargetRanking, find_target
from .tensor_file import TensorFile, TensorFileError
from .text_encoder_file import ModelFileError, TextEncoderFile, open_text_encoder
from .tower import AttentionStates, TextTower, TowerError
from .tuning import LAMBDAS, LambdaCurve, Spectrum, trace_lambda
from .weight_edit import WeightEdit, weight_hash

__all__ = [
    "AUTO",
    "ENCODERS",
    "EVERYDAY",
    "GUARDED",
    "HELD_OUT_TEMPLATES",
    "KNOWN_NAMES",
    "LAMBDAS",
    "NAMINGS",
    "PAPER",
    "PLAIN_WORDS",
    "POSITIONS",
    "PRECISIONS",
    "PRESERVED",
    "PRESERVE_MODES",
    "PRESERVE_SETS",
    "PRESETS",
    "AttentionStates",
    "Candidate",
    "Changes",
    "ConceptEdit",
    "ConceptList",
    "ConceptListError",
    "EditFile",
    "EditFileError",
    "EditReport",
    "EditSettings",
    "Encoder",
    "FinalStates",
    "FolderCopy",
    "Guard",
    "Guarding",
    "HeldError",
    "HeldSpan",
    "Hit",
    "LambdaCurve",
    "Ledger",
    "LedgerError",
    "LowRank",
    "ModelFileError",
    "Probe",
    "Radar",
    "SolveError",
    "Spectrum",
    "Statistics",
    "StorageRounding",
    "TargetRanking",
    "TensorFile",
    "TensorFileError",
    "TextEncoderFile",
    "TextTower",
    "TokenPairs",
    "TowerError",
    "WeightEdit",
    "build_guard",
    "check_folder",
    "combine",
    "compute_edit",
    "copy_folder",
    "find_lambda",
    "find_target",
    "load_edit",
    "match_positions",
    "measure_edit",
    "measure_effect",
    "measure_final",
    "open_text_encoder",
    "pair_tokens",
    "parse_changes",
    "parse_concepts",
    "preserve_set",
    "preserved_gram",
    "preset",
    "prompts_of_text",
    "read_concepts",
    "read_edit_file",
    "save_edit",
    "scan",
    "solve",
    "solve_residuals",
    "storage_rounding",
    "text_of_concepts",
    "text_of_prompts",
    "to_json",
    "trace_lambda",
    "weight_hash",
]
