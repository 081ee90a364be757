"""An edit, from a file or from anywhere, measured on a model."""

from __future__ import annotations

import torch

from ..prompts import PromptTokenizer
from .edit import everyday_probe, report_on
from .guard import build_guard
from .report import EditReport
from .solve import LowRank
from .stopwatch import Stopwatch
from .stream import gather_pairs
from .tower import TextTower, TowerError
from .weight_edit import WeightEdit


@torch.no_grad()
def measure_edit(tower: TextTower, tokenizer: PromptTokenizer, edit: WeightEdit, strength: float = 1.0) -> EditReport:
    """The report of an edit on a model's text encoder, be it the one that the edit was computed from or another.

    Raises:
        TowerError: the edit does not fit the text encoder.
    """
    tower.require_layer(edit.settings.layer)
    weight = tower.weight(edit.weight_name)
    if tuple(weight.shape) != (edit.up.shape[0], edit.down.shape[1]):
        raise TowerError(
            f"The edit changes a weight of {edit.up.shape[0]} x {edit.down.shape[1]}; this text encoder's is "
            f"{' x '.join(map(str, weight.shape))}. It was made for another kind of model ({edit.encoder})."
        )
    update = LowRank(edit.up * strength, edit.down)
    pairs = gather_pairs(tower, tokenizer, edit.concepts, edit.settings, Stopwatch())
    guard = build_guard(tower, tokenizer, edit.concepts, edit.settings)
    probe = everyday_probe(tower, tokenizer, edit.concepts, edit.settings.layer)
    return report_on(
        tower, tokenizer, edit.concepts, edit.settings, update, pairs.efficacy(update), pairs, guard, probe
    )
