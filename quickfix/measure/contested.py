"""Concepts whose keys are nearly those of what is preserved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...text.prompts import PromptTokenizer
from ..concepts.concept import ConceptEdit
from ..concepts.settings import EditSettings
from ..encoder.towers import Tower, beginnings, up_to

# Keys of other words have cosines up to 0.9, even with random weights.
_SAME_WAY = 0.95


_TOLD = 5


def near_preserved(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> tuple[tuple[str, str, float], ...]:
    """Sources and preserved prompts whose keys point nearly the same way: to keep the one is to keep the other.

    Compared are the last subject token of the source alone and the last word of the prompt.

    Returns:
        (source, prompt, cosine), the nearest first, :data:`_TOLD` at most.
    """
    prompts = [prompt for prompt in dict.fromkeys((*settings.preserve, *settings.hold)) if prompt.strip()]
    if not prompts:
        return ()
    sources = list(dict.fromkeys(concept.source for concept in concepts))
    keys = _last_word_keys(tower, tokenizer, [*sources, *prompts], settings.layer)
    cosines = keys[: len(sources)] @ keys[len(sources) :].T
    pairs = [(sources[i], prompts[j], float(cosines[i, j])) for i, j in (cosines > _SAME_WAY).nonzero().tolist()]
    return tuple(sorted(pairs, key=lambda pair: -pair[2])[:_TOLD])


def _last_word_keys(tower: Tower, tokenizer: PromptTokenizer, texts: Sequence[str], layer: int) -> torch.Tensor:
    """The key of each text's last word, (n, d), of length 1."""
    prompts = tokenizer.tokenize_all(list(texts))
    lasts = [prompt.last_word for prompt in prompts]
    rows = up_to(tower, beginnings(tower, prompts, max(lasts) + 1), torch.tensor(lasts))
    inputs = tower.attention_inputs(rows, layer)
    return F.normalize(inputs[list(range(len(lasts))), lasts], dim=1)
