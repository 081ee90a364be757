"""What an update does to prompts that it is not about, and to the states that the image model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ...text.prompts import PromptTokenizer, TokenizedPrompt
from ...text.rows import without_filling
from ..concepts.built_in import FINAL_CAPTIONS
from ..encoder.towers import Tower, beginnings
from ..solver.low_rank import LowRank
from .report import FinalStates

WORST_HIT = 5


# Final states are measured on this many tokens of each caption; the padding behind them moves as the last of them do.
FINAL_TOKENS = 12


class Effect(NamedTuple):
    """What an update does to prompts that it is not about."""

    specificity: float
    drift: float
    empty_prompt_drift: float
    worst_hit: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Probe:
    """Everyday prompts as one layer sees them, on which updates are tried.

    Attributes:
        prompts: the prompts.
        inputs: keys (prompts, positions, d).
        sizes: norm of each prompt's residual stream right after the attention, (prompts,).
    """

    prompts: tuple[TokenizedPrompt, ...]
    inputs: torch.Tensor
    sizes: torch.Tensor

    @classmethod
    def of(cls, tower: Tower, layer: int, prompts: Sequence[TokenizedPrompt]) -> Probe:
        inputs, residual = tower.attention_states(without_filling([prompt.ids for prompt in prompts]), layer)
        return cls(tuple(prompts), inputs, residual.flatten(1).norm(dim=1))

    def drift_grams(self) -> list[torch.Tensor]:
        """Gram matrices (d, d) of the keys, scaled so that ||delta E|| is a drift: the root mean square one of the
        prompts with words, and the empty prompt's; of those that there are."""
        words = torch.tensor([bool(prompt.body) for prompt in self.prompts], device=self.inputs.device)
        scaled = self.inputs / self.sizes[:, None, None]
        grams = []
        for part in (scaled[words] / max(1, int(words.sum())) ** 0.5, scaled[~words][:1]):
            if len(part):
                rows = part.flatten(0, 1)
                grams.append(rows.T @ rows)
        return grams


@torch.no_grad()
def measure_effect(tower: Tower, layer: int, update: LowRank, prompts: Sequence[TokenizedPrompt] | Probe) -> Effect:
    """What an update of ``layer``'s output projection does to some prompts it is not about.

    ``empty_prompt_drift`` is 0 where the empty prompt is not among them; the other numbers do not count it.
    """
    probe = prompts if isinstance(prompts, Probe) else Probe.of(tower, layer, prompts)
    change = update.coordinates(probe.inputs)
    drifts = (change.flatten(1).norm(dim=1) / probe.sizes).tolist()
    lasts = torch.tensor([prompt.last_word for prompt in probe.prompts], device=change.device)
    places = torch.arange(change.shape[1], device=change.device)
    starts = torch.tensor([prompt.start for prompt in probe.prompts], device=change.device)
    words = (places >= starts[:, None]) & (places <= lasts[:, None])
    outputs = probe.inputs[words]
    if not tower.identity:
        outputs = outputs @ tower.weight(tower.out_proj_name(layer)).T
    damage = change[words].norm(dim=-1) / outputs.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    named = [(prompt.text, drift) for prompt, drift in zip(probe.prompts, drifts, strict=True) if prompt.body]
    empty = [drift for prompt, drift in zip(probe.prompts, drifts, strict=True) if not prompt.body]
    worst = sorted((hit for hit in named if hit[1] > 0), key=lambda hit: -hit[1])[:WORST_HIT]
    return Effect(
        specificity=1.0 - float(damage.mean()) if len(damage) else 1.0,
        drift=sum(drift for _, drift in named) / max(1, len(named)),
        empty_prompt_drift=max(empty, default=0.0),
        worst_hit=tuple(worst),
    )


@torch.no_grad()
def measure_final(
    tower: Tower,
    layer: int,
    update: LowRank,
    tokenizer: PromptTokenizer,
    captions: Sequence[str] = FINAL_CAPTIONS,
    tokens: int | None = FINAL_TOKENS,
) -> FinalStates:
    """How far an update of ``layer`` moves the last hidden states of some captions; all layers run, once.

    Args:
        captions: short everyday captions.
        tokens: how many tokens of each are read (the tower is causal: what follows changes nothing); None for all.
    """
    prompts = tokenizer.tokenize_all(list(captions))
    inputs, residual = tower.attention_states(beginnings(tower, prompts, tokens), layer)
    change = inputs @ update.down.to(inputs).T @ update.up.to(inputs).T
    before, after = tower.finish(torch.cat((residual, residual + change)), layer).chunk(2)
    drifts = ((after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)).tolist()
    turns = (1 - F.cosine_similarity(before.double(), after.double(), dim=-1).mean(1)).tolist()
    named = [i for i, prompt in enumerate(prompts) if prompt.body]
    return FinalStates(
        drift=sum(drifts[i] for i in named) / max(1, len(named)),
        turn=max(0.0, sum(turns[i] for i in named) / max(1, len(named))),
        empty_prompt_drift=max((drift for i, drift in enumerate(drifts) if i not in named), default=0.0),
    )
