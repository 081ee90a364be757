"""Diff-QuickFix: edit a concept of a CLIP text encoder in closed form.

    tower = TextTower.from_module(text_model)
    tokenizer = PromptTokenizer(clip_tokenizer, pad_token=49407)
    edit = compute_edit(tower, tokenizer, [ConceptEdit("van gogh", "painting")], preset("guarded"))
    print(edit.report.text())
    weight += edit.delta()   # the weight that edit.weight_name names

Computing an edit never changes a model. The method: Basu et al., ICLR 2024, arXiv 2310.13730.
"""

from ..families.clip import ENCODERS, NAMINGS, Encoder
from ..output.json_records import to_json
from .breadth import BreadthError, keep_grams_in
from .breadth_rules import AUTO_BREADTH, DefaultBreadth, Guarded, default_breadth, guarded_by
from .concepts.built_in import (
    EVERYDAY,
    FINAL_CAPTIONS,
    HELD_OUT_TEMPLATES,
    PLAIN_WORDS,
    PRESERVE_SETS,
    PRESERVED,
    preserve_set,
)
from .concepts.changes import Changes, parse_changes
from .concepts.concept import ConceptEdit
from .concepts.lists import ConceptList, ConceptListError, combine, parse_concepts, read_concepts, text_of_concepts
from .concepts.names import BREADTH_CHOICES, BREADTHS, BROAD, NO_BREADTH, SHORT, SHORTER
from .concepts.pairs import ALIGNED, POSITIONS, TokenPairs, match_positions, pair_tokens
from .concepts.prompt_lists import prompts_of_text, text_of_prompts
from .concepts.settings import AUTO, DOORS, GUARDED, PAPER, PRESERVE_MODES, PRESETS, EditSettings, preset
from .doors import at_doors, edit_doors, with_doors
from .edit import compute_edit, find_lambda, measure_edit, require_fit
from .encoder.joined_states import JoinedStates
from .encoder.prompt_states import PromptStates
from .encoder.row_states import RowStates
from .encoder.states import STATES, StateTower, state_scale
from .encoder.token_table import TokenTable
from .encoder.tower import TextTower, device_of_most
from .encoder.towers import AttentionStates, Tower, TowerError
from .files.edit_file import PRECISIONS, EditFile, EditFileError, is_edit_file, load_edit, read_edit_file, save_edit
from .files.image_model_file import ImageModelFile
from .files.model_folder import FolderCopy, check_folder, copy_folder, files_under
from .files.open_image_model import image_family, open_image_model
from .files.shards import ShardedTensors
from .files.tensor_file import TensorFile, TensorFileError
from .files.text_encoder_file import ModelFileError, SeveralEncodersError, TextEncoderFile, open_text_encoder
from .guard import Guard, build_guard
from .ledger import Ledger, LedgerError
from .measure.effect import Probe, measure_effect, measure_final
from .measure.radar import KNOWN_NAMES, Hit, Radar, scan
from .measure.report import Breadth, EditReport, FinalStates
from .measure.rounding import StorageRounding, storage_rounding
from .measure.target_ranking import Candidate, TargetRanking
from .measure.verdict import Guarding
from .measure.weight_edit import WeightEdit, weight_hash
from .solver.closed_form import SolveError, Statistics, preserved_gram, solve, solve_residuals
from .solver.low_rank import LowRank
from .solver.nullspace import HeldError, HeldSpan
from .solver.spectrum import LAMBDAS, LambdaCurve, Spectrum, trace_lambda
from .targets import find_target
from .ways import WAYS, Way, WayError, common_kind, doors_settings, kinds_of, way_of

__all__ = [
    "ALIGNED",
    "AUTO",
    "AUTO_BREADTH",
    "BREADTHS",
    "BREADTH_CHOICES",
    "BROAD",
    "DOORS",
    "ENCODERS",
    "EVERYDAY",
    "FINAL_CAPTIONS",
    "GUARDED",
    "HELD_OUT_TEMPLATES",
    "KNOWN_NAMES",
    "LAMBDAS",
    "NAMINGS",
    "NO_BREADTH",
    "PAPER",
    "PLAIN_WORDS",
    "POSITIONS",
    "PRECISIONS",
    "PRESERVED",
    "PRESERVE_MODES",
    "PRESERVE_SETS",
    "PRESETS",
    "SHORT",
    "SHORTER",
    "STATES",
    "WAYS",
    "AttentionStates",
    "Breadth",
    "BreadthError",
    "Candidate",
    "Changes",
    "ConceptEdit",
    "ConceptList",
    "ConceptListError",
    "DefaultBreadth",
    "EditFile",
    "EditFileError",
    "EditReport",
    "EditSettings",
    "Encoder",
    "FinalStates",
    "FolderCopy",
    "Guard",
    "Guarded",
    "Guarding",
    "HeldError",
    "HeldSpan",
    "Hit",
    "ImageModelFile",
    "JoinedStates",
    "LambdaCurve",
    "Ledger",
    "LedgerError",
    "LowRank",
    "ModelFileError",
    "Probe",
    "PromptStates",
    "Radar",
    "RowStates",
    "SeveralEncodersError",
    "ShardedTensors",
    "SolveError",
    "Spectrum",
    "StateTower",
    "Statistics",
    "StorageRounding",
    "TargetRanking",
    "TensorFile",
    "TensorFileError",
    "TextEncoderFile",
    "TextTower",
    "TokenPairs",
    "TokenTable",
    "Tower",
    "TowerError",
    "Way",
    "WayError",
    "WeightEdit",
    "at_doors",
    "build_guard",
    "check_folder",
    "combine",
    "common_kind",
    "compute_edit",
    "copy_folder",
    "default_breadth",
    "device_of_most",
    "doors_settings",
    "edit_doors",
    "files_under",
    "find_lambda",
    "find_target",
    "guarded_by",
    "image_family",
    "is_edit_file",
    "keep_grams_in",
    "kinds_of",
    "load_edit",
    "match_positions",
    "measure_edit",
    "measure_effect",
    "measure_final",
    "open_image_model",
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
    "require_fit",
    "save_edit",
    "scan",
    "solve",
    "solve_residuals",
    "state_scale",
    "storage_rounding",
    "text_of_concepts",
    "text_of_prompts",
    "to_json",
    "trace_lambda",
    "way_of",
    "weight_hash",
    "with_doors",
]
