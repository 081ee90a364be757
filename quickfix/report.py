"""What an edit does, measured on the text encoder before any picture is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..prompts import PromptTokenizer
from .everyday import EVERYDAY
from .solve import LowRank
from .tower import TextTower, out_proj_name


@dataclass(frozen=True)
class EditReport:
    """The measures of one edit.

    Attributes:
        efficacy: 1 - ||W k - v|| / ||W0 k - v|| over all pairs; 1 when every key gives its value.
        specificity: 1 - mean ||dW k|| / ||W0 k|| over the words of everyday prompts; 1 when nothing moves.
        drift: ||dW k|| / ||x||, x the residual stream behind the edited attention, over all 77 positions of the same
            prompts.
        empty_prompt_drift: the same for the empty prompt, the usual negative prompt.
        worst_prompt, worst_drift: the everyday prompt that moves most.
        pairs: number of (key, value) pairs.
        rank: rank of the update as stored.
        relative_norm: ||dW|| / ||W0||, Frobenius.
        nbytes: size of the two factors in fp32.
        milliseconds: time of each stage.
    """

    efficacy: float
    specificity: float
    drift: float
    empty_prompt_drift: float
    worst_prompt: str
    worst_drift: float
    pairs: int
    rank: int
    relative_norm: float
    nbytes: int
    milliseconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """A few lines for people."""
        stages = ", ".join(f"{name} {value:.0f}" for name, value in self.milliseconds.items())
        return "\n".join((
            f"efficacy     {self.efficacy:.3f}   (1: every edited key gives what it was asked to)",
            f"specificity  {self.specificity:.3f}   (1: the words of everyday prompts stay where they are)",
            f"drift        {self.drift:.3f}   empty prompt {self.empty_prompt_drift:.3f}, "
            f"worst {self.worst_drift:.3f}: {self.worst_prompt!r}",
            f"update       rank {self.rank}, {self.relative_norm:.1%} of the weight's norm, "
            f"{self.nbytes / 1024:.0f} KiB, from {self.pairs} pairs",
            f"time in ms   {stages}",
        ))


def measure(
    tower: TextTower,
    tokenizer: PromptTokenizer,
    edit: LowRank,
    layer: int,
    keys: torch.Tensor,
    residual: torch.Tensor,
) -> EditReport:
    """Measure an edit of ``layer`` on its own pairs and on the built-in everyday prompts."""
    up, down = edit.up, edit.down
    weight = tower.weight(out_proj_name(layer))
    left = ((keys @ down.T) @ up.T - residual).norm()
    asked = residual.norm()

    prompts = tokenizer.tokenize_all(EVERYDAY)
    stream, inputs = tower.at_attention(torch.tensor([prompt.ids for prompt in prompts]), layer)
    before = inputs @ weight.T
    moved = ((inputs @ down.T) @ up.T).norm(dim=-1)
    behind = stream + before + tower.weight(out_proj_name(layer).replace(".weight", ".bias"))
    relative = moved / before.norm(dim=-1)
    words = torch.zeros_like(relative, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        words[row, 1 : prompt.eos] = True
    drift = (moved.square().sum(1) / behind.square().sum((1, 2))).sqrt()
    worst = int(drift.argmax())
    return EditReport(
        efficacy=float(1 - left / asked) if asked > 0 else 1.0,
        specificity=float(1 - relative[words].mean()),
        drift=float(drift.mean()),
        empty_prompt_drift=float(drift[EVERYDAY.index("")]),
        worst_prompt=EVERYDAY[worst],
        worst_drift=float(drift[worst]),
        pairs=len(keys),
        rank=edit.rank,
        relative_norm=float((up @ down).norm() / weight.norm()),
        nbytes=4 * (up.numel() + down.numel()),
    )


def storage_rounding(weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """What storing ``weight + delta`` in ``dtype`` does to the edit.

    Args:
        weight: the weight as stored before (already rounded to ``dtype``), in fp32.
        delta: the update, fp32.

    Returns:
        The relative error of the realised update (Frobenius), and the share of non-zero entries that vanish.
    """
    if dtype in (torch.float32, torch.float64) or not bool(delta.any()):
        return 0.0, 0.0
    realised = (weight + delta).to(dtype).float() - weight
    nonzero = delta != 0
    return float((realised - delta).norm() / delta.norm()), float((realised[nonzero] == 0).float().mean())
