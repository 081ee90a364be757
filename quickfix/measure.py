"""An edit, from a file or from anywhere, measured on a model."""

from __future__ import annotations

import dataclasses

import torch

from ..prompts import PromptTokenizer, holds_words
from .everyday import EVERYDAY
from .pairs import pair_tokens
from .report import EditReport, measure_effect
from .solve import LowRank
from .tower import TextTower, TowerError
from .weight_edit import WeightEdit

_CONCEPTS = 64


@torch.no_grad()
def measure_edit(tower: TextTower, tokenizer: PromptTokenizer, edit: WeightEdit, strength: float = 1.0) -> EditReport:
    """The report of an edit on a model's text encoder, be it the one that the edit was computed from or another.

    Raises:
        TowerError: the edit does not fit the text encoder.
    """
    tower.require_layer(edit.settings.layer)
    weight = tower.weight(edit.weight_name)
    update = LowRank(edit.up * strength, edit.down)
    if tuple(weight.shape) != (edit.up.shape[0], edit.down.shape[1]):
        raise TowerError(
            f"The edit changes a weight of {edit.up.shape[0]} x {edit.down.shape[1]}; this text encoder's is "
            f"{' x '.join(map(str, weight.shape))}. It was made for another kind of model ({edit.encoder})."
        )
    sources = {tokenizer.word_ids(concept.source) for concept in edit.concepts}
    prompts = [
        prompt for prompt in tokenizer.tokenize_all(EVERYDAY) if not any(holds_words(prompt, s) for s in sources)
    ]
    pairs, efficacy = _efficacy(tower, tokenizer, edit, weight, update)
    return dataclasses.replace(
        edit.report,
        **measure_effect(tower, edit.settings.layer, update, prompts)._asdict(),
        efficacy=efficacy,
        pairs=pairs,
        rank=edit.rank,
        relative_norm=float(update.up.norm() / weight.norm()) if edit.rank else 0.0,
        nbytes=edit.nbytes,
        milliseconds=(),
    )


def _efficacy(
    tower: TextTower, tokenizer: PromptTokenizer, edit: WeightEdit, weight: torch.Tensor, update: LowRank
) -> tuple[int, float]:
    """The number of edited pairs, and how far the update takes their outputs to the targets' (0 to 1)."""
    pairs, energy, left = 0, 0.0, 0.0
    for start in range(0, len(edit.concepts), _CONCEPTS):
        part = edit.concepts[start : start + _CONCEPTS]
        wanted = [(concept.source, concept.target or "", concept.templates or ()) for concept in part]
        batch = pair_tokens(tokenizer, wanted, edit.settings.positions)
        inputs = tower.attention_inputs(batch.ids, edit.settings.layer)
        keys, targets = (inputs[where[:, 0], where[:, 1]] for where in (batch.source, batch.target))
        residuals = (targets - keys) @ weight.T
        pairs += len(batch)
        energy += float(residuals.double().square().sum())
        left += float((residuals - keys @ update.down.T @ update.up.T).double().square().sum())
    return pairs, 1.0 if energy == 0 else min(1.0, max(0.0, 1.0 - (left / energy) ** 0.5))
