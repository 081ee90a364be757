"""What an edit does, measured from the weights before any picture is made.

Three questions: does the concept arrive (efficacy), do other prompts' tokens keep their outputs (specificity), and how
far do unrelated prompts move (drift). They are measured where the edit acts, right after the edited attention; later
layers and the image model may dampen or magnify them.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..prompts import TokenizedPrompt
from .solve import LowRank
from .tower import TextTower

WORST_HIT = 5
_WEAK, _HARMFUL = 0.5, 0.1


class StorageRounding(NamedTuple):
    """What rounding to a model's own dtype does to an edit."""

    error: float
    """Relative error of the realised delta, ||realised - delta|| / ||delta||."""
    swallowed: float
    """Share of the delta's non-zero entries that change nothing."""


class Effect(NamedTuple):
    """What an update does to prompts that it is not about."""

    specificity: float
    drift: float
    empty_prompt_drift: float
    worst_hit: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class EditReport:
    """The measured effect and cost of an edit.

    Attributes:
        efficacy: 0 (nothing reached) to 1 (every edited key gives its value): 1 - ||W'K - V|| / ||W K - V||.
        specificity: 1 - mean of ||delta k|| / ||W k|| over the words of everyday prompts; 1 is no damage.
        drift: mean over everyday prompts of the relative L2 change of the residual stream, all positions.
        empty_prompt_drift: the same for the empty prompt, which is most pictures' negative prompt.
        worst_hit: the everyday prompts that drift most, with their drift.
        pairs: edited pairs of token positions.
        rank: rank of the update.
        relative_norm: ||delta|| / ||W||, Frobenius.
        nbytes: size of the two factors in fp32.
        milliseconds: (stage, wall time) in order.
        skipped_preserve: built-in preserved prompts left out because they name a concept being edited.
        storage: rounding to the model's dtype, where known (see :meth:`with_storage`).
    """

    efficacy: float
    specificity: float
    drift: float
    empty_prompt_drift: float
    worst_hit: tuple[tuple[str, float], ...]
    pairs: int
    rank: int
    relative_norm: float
    nbytes: int
    milliseconds: tuple[tuple[str, float], ...] = ()
    skipped_preserve: tuple[str, ...] = ()
    storage: StorageRounding | None = None

    @property
    def verdict(self) -> str:
        """ "harmful" where everyday prompts drift by over 10 %, "weak" where efficacy is under a half, else "good"."""
        if max(self.drift, self.empty_prompt_drift) > _HARMFUL:
            return "harmful"
        return "weak" if self.efficacy < _WEAK else "good"

    def text(self) -> str:
        """A summary for people, a few lines."""
        lines = [
            f"verdict: {self.verdict}",
            f"efficacy: {self.efficacy:.1%} of the way from the concept to its target, over {self.pairs} token pairs",
            f"specificity: {self.specificity:.1%} (words of everyday prompts keep their outputs)",
            f"drift: {self.drift:.2%} on everyday prompts, {self.empty_prompt_drift:.2%} on the empty prompt",
        ]
        if self.worst_hit:
            worst = "; ".join(f"{prompt!r} {drift:.2%}" for prompt, drift in self.worst_hit)
            lines.append(f"worst hit: {worst}")
        if self.skipped_preserve:
            lines.append(f"not preserved, since they name the concept: {', '.join(map(repr, self.skipped_preserve))}")
        size = f"rank {self.rank}, {self.nbytes / 1024:.0f} KiB, {self.relative_norm:.2%} of the weight's norm"
        lines.append(f"size: {size}")
        if self.storage is not None:
            error, swallowed = self.storage
            lines.append(f"storage: rounded by {error:.1%}, {swallowed:.1%} of entries vanish")
        if self.milliseconds:
            stages = ", ".join(f"{stage} {duration:.0f}" for stage, duration in self.milliseconds)
            lines.append(f"milliseconds: {stages}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        fields = dataclasses.asdict(self)
        fields["storage"] = None if self.storage is None else self.storage._asdict()
        fields["milliseconds"] = dict(self.milliseconds)
        fields["verdict"] = self.verdict
        return json.loads(json.dumps(fields))

    def with_storage(self, weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> EditReport:
        """This report with what rounding the edited weight to ``dtype`` costs."""
        return dataclasses.replace(self, storage=storage_rounding(weight, delta, dtype))


def storage_rounding(weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> StorageRounding:
    """How much of ``delta`` survives when ``weight + delta`` is kept as ``dtype``; (0, 0) for fp32 and wider."""
    changed = delta != 0
    if torch.finfo(dtype).bits >= 32 or not changed.any():
        return StorageRounding(0.0, 0.0)
    before = weight.to(dtype).double()
    realised = (weight.float() + delta.float()).to(dtype).double() - before
    error = (realised - delta.double()).norm() / delta.double().norm()
    return StorageRounding(float(error), float((realised[changed] == 0).double().mean()))


@torch.no_grad()
def measure_effect(tower: TextTower, layer: int, update: LowRank, prompts: Sequence[TokenizedPrompt]) -> Effect:
    """What an update of ``layer``'s output projection does to some prompts it is not about.

    ``empty_prompt_drift`` is 0 where the empty prompt is not among them; the other numbers do not count it.
    """
    ids = torch.tensor([prompt.ids for prompt in prompts], dtype=torch.long)
    inputs, residual = tower.attention_states(ids, layer)
    change = inputs @ update.down.to(inputs).T @ update.up.to(inputs).T
    drifts = (change.flatten(1).norm(dim=1) / residual.flatten(1).norm(dim=1)).tolist()
    ends = torch.tensor([prompt.eos for prompt in prompts], device=inputs.device)
    places = torch.arange(ids.shape[1], device=inputs.device)
    words = (places > 0) & (places < ends[:, None])
    outputs = inputs[words] @ tower.weight(tower.out_proj_name(layer)).T
    damage = change[words].norm(dim=-1) / outputs.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    named = [(prompt.text, drift) for prompt, drift in zip(prompts, drifts, strict=True) if prompt.eos > 1]
    empty = [drift for prompt, drift in zip(prompts, drifts, strict=True) if prompt.eos == 1]
    worst = sorted((hit for hit in named if hit[1] > 0), key=lambda hit: -hit[1])[:WORST_HIT]
    return Effect(
        specificity=1.0 - float(damage.mean()) if len(damage) else 1.0,
        drift=sum(drift for _, drift in named) / max(1, len(named)),
        empty_prompt_drift=max(empty, default=0.0),
        worst_hit=tuple(worst),
    )
