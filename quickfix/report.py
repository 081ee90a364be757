"""What an edit does, measured from the weights before any picture is made.

Does the concept arrive (efficacy), in other sentences too (generality), do other prompts' tokens keep their outputs
(specificity), and how far do unrelated prompts move (drift)? These are measured where the edit acts, right after the
edited attention; how far the text states that the image model reads move is measured by running all layers on a few
captions (``FinalStates``). The image model may dampen or magnify what it is given.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from ..prompts import PromptTokenizer, TokenizedPrompt
from .everyday import FINAL_CAPTIONS
from .solve import LowRank
from .tower import TextTower
from .verdict import judge

WORST_HIT = 5
# Final states are measured on this many tokens of each caption; the padding behind them moves as the last of them do.
FINAL_TOKENS = 12


class StorageRounding(NamedTuple):
    """What rounding to a model's own dtype does to an edit."""

    error: float
    """Relative error of the realised delta, ||realised - delta|| / ||delta||."""
    swallowed: float
    """Share of the delta's non-zero entries that change nothing."""
    realised: float = 1.0
    """How much of the edit the rounded weight carries, <realised, delta> / ||delta||^2; 1 is all of it."""


class FinalStates(NamedTuple):
    """How far the last hidden states of everyday captions move, the mean over captions."""

    drift: float
    """Relative L2 change."""
    turn: float
    """1 - cosine of the states before and after, the mean over tokens."""
    empty_prompt_drift: float
    """Relative L2 change of the empty prompt's; not in the mean."""


class Effect(NamedTuple):
    """What an update does to prompts that it is not about."""

    specificity: float
    drift: float
    empty_prompt_drift: float
    worst_hit: tuple[tuple[str, float], ...]


class Guarding(NamedTuple):
    """What holding prompts cost an edit."""

    held_rank: int
    """Dimensions of the keys that the held prompts span."""
    concept_lost: float
    """Share of the edited keys' energy that lies in that span, where no edit can act."""


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
        generality: (kind of concept, efficacy in captions that the edit was not computed from), for each kind.
        condition: 1 + ||G|| / lambda, an upper bound of the condition number of the system solved, lambda I + G; exact
            where the keys do not span all dimensions.
        guarding: what holding prompts cost, where any are held.
        final: drift of the last hidden states, where measured (see :func:`measure_final`).
        contested: (source, preserved prompt, cosine) with nearly the same key: to keep the one is to keep the other.
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
    generality: tuple[tuple[str, float], ...] = ()
    condition: float | None = None
    guarding: Guarding | None = None
    final: FinalStates | None = None
    contested: tuple[tuple[str, str, float], ...] = ()

    @property
    def verdict(self) -> str:
        """ "strong", or "weak: ..." or "harmful: ..." with why and what to do (see ``verdict.py``)."""
        return judge(self).text()

    def text(self) -> str:
        """A summary for people, some lines."""
        lines = [
            f"verdict: {self.verdict}",
            f"efficacy: {self.efficacy:.1%} of the way from the concept to its target, over {self.pairs} token pairs",
        ]
        if self.generality:
            kinds = ", ".join(f"{reached:.1%} ({kind})" for kind, reached in self.generality)
            lines.append(f"generality: {kinds} in sentences that the edit has not seen")
        lines += [
            f"specificity: {self.specificity:.1%} (words of everyday prompts keep their outputs)",
            f"drift: {self.drift:.2%} on everyday prompts, {self.empty_prompt_drift:.2%} on the empty prompt",
        ]
        if self.final is not None:
            lines.append(
                f"final text states: drift {self.final.drift:.2%} (1 - cosine {self.final.turn:.4f}) on everyday "
                f"captions, {self.final.empty_prompt_drift:.2%} on the empty prompt"
            )
        if self.worst_hit:
            worst = "; ".join(f"{prompt!r} {drift:.2%}" for prompt, drift in self.worst_hit)
            lines.append(f"worst hit: {worst}")
        if self.skipped_preserve:
            lines.append(f"not preserved, since they name the concept: {', '.join(map(repr, self.skipped_preserve))}")
        for source, prompt, cosine in self.contested:
            lines.append(f"contested: {source!r} and the preserved {prompt!r} have nearly the same key ({cosine:.3f})")
        return "\n".join([*lines, *self._technical_lines()])

    def _technical_lines(self) -> list[str]:
        size = f"rank {self.rank}, {self.nbytes / 1024:.0f} KiB, {self.relative_norm:.2%} of the weight's norm"
        lines = [f"size: {size}"]
        if self.guarding is not None:
            lines.append(
                f"held: {self.guarding.held_rank} dimensions, with {self.guarding.concept_lost:.1%} of the energy of "
                "the concept's keys; the edit acts through the rest"
            )
        if self.condition is not None:
            lines.append(f"condition number: at most {self.condition:.1e}")
        if self.storage is not None:
            lines.append(
                f"storage: rounded by {self.storage.error:.1%}, {self.storage.swallowed:.1%} of entries vanish, "
                f"{self.storage.realised:.1%} of the edit is realised"
            )
        if self.milliseconds:
            stages = ", ".join(f"{stage} {duration:.0f}" for stage, duration in self.milliseconds)
            lines.append(f"milliseconds: {stages}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for JSON."""
        fields = dataclasses.asdict(self)
        for name in ("storage", "guarding", "final"):
            value = getattr(self, name)
            fields[name] = None if value is None else value._asdict()
        fields["milliseconds"] = dict(self.milliseconds)
        fields["generality"] = dict(self.generality)
        verdict = judge(self)
        fields |= {"verdict": verdict.text(), "findings": [[*finding] for finding in verdict.findings]}
        return json.loads(json.dumps(fields))

    def with_storage(self, weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> EditReport:
        """This report with what rounding the edited weight to ``dtype`` costs."""
        return dataclasses.replace(self, storage=storage_rounding(weight, delta, dtype))

    def with_final(self, final: FinalStates) -> EditReport:
        """This report with the drift of the last hidden states."""
        return dataclasses.replace(self, final=final)


def storage_rounding(weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype) -> StorageRounding:
    """How much of ``delta`` survives when ``weight + delta`` is kept as ``dtype``; all of it for fp32 and wider."""
    changed = delta != 0
    if torch.finfo(dtype).bits >= 32 or not changed.any():
        return StorageRounding(0.0, 0.0, 1.0)
    # Numbers of half precision differ by what fp32 holds.
    before, wanted = weight.to(dtype).float(), delta.float()
    realised = (weight.float() + wanted).to(dtype).float() - before
    size = float(wanted.norm())
    return StorageRounding(
        error=float((realised - wanted).norm()) / size,
        swallowed=int((changed & (realised == 0)).sum()) / int(changed.sum()),
        realised=float((realised * wanted).sum()) / size**2,
    )


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
    def of(cls, tower: TextTower, layer: int, prompts: Sequence[TokenizedPrompt]) -> Probe:
        inputs, residual = tower.attention_states([prompt.ids for prompt in prompts], layer)
        return cls(tuple(prompts), inputs, residual.flatten(1).norm(dim=1))

    def drift_grams(self) -> list[torch.Tensor]:
        """Gram matrices (d, d) of the keys, scaled so that ||delta E|| is a drift: the root mean square one of the
        prompts with words, and the empty prompt's; of those that there are."""
        words = torch.tensor([prompt.eos > 1 for prompt in self.prompts], device=self.inputs.device)
        scaled = self.inputs / self.sizes[:, None, None]
        grams = []
        for part in (scaled[words] / max(1, int(words.sum())) ** 0.5, scaled[~words][:1]):
            if len(part):
                rows = part.flatten(0, 1)
                grams.append(rows.T @ rows)
        return grams


@torch.no_grad()
def measure_effect(tower: TextTower, layer: int, update: LowRank, prompts: Sequence[TokenizedPrompt] | Probe) -> Effect:
    """What an update of ``layer``'s output projection does to some prompts it is not about.

    ``empty_prompt_drift`` is 0 where the empty prompt is not among them; the other numbers do not count it.
    """
    probe = prompts if isinstance(prompts, Probe) else Probe.of(tower, layer, prompts)
    change = update.coordinates(probe.inputs)
    drifts = (change.flatten(1).norm(dim=1) / probe.sizes).tolist()
    ends = torch.tensor([prompt.eos for prompt in probe.prompts], device=change.device)
    places = torch.arange(change.shape[1], device=change.device)
    words = (places > 0) & (places < ends[:, None])
    outputs = probe.inputs[words] @ tower.weight(tower.out_proj_name(layer)).T
    damage = change[words].norm(dim=-1) / outputs.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
    named = [(prompt.text, drift) for prompt, drift in zip(probe.prompts, drifts, strict=True) if prompt.eos > 1]
    empty = [drift for prompt, drift in zip(probe.prompts, drifts, strict=True) if prompt.eos == 1]
    worst = sorted((hit for hit in named if hit[1] > 0), key=lambda hit: -hit[1])[:WORST_HIT]
    return Effect(
        specificity=1.0 - float(damage.mean()) if len(damage) else 1.0,
        drift=sum(drift for _, drift in named) / max(1, len(named)),
        empty_prompt_drift=max(empty, default=0.0),
        worst_hit=tuple(worst),
    )


@torch.no_grad()
def measure_final(
    tower: TextTower,
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
    inputs, residual = tower.attention_states([prompt.ids[:tokens] for prompt in prompts], layer)
    change = inputs @ update.down.to(inputs).T @ update.up.to(inputs).T
    before, after = tower.finish(torch.cat((residual, residual + change)), layer).chunk(2)
    drifts = ((after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)).tolist()
    turns = (1 - F.cosine_similarity(before.double(), after.double(), dim=-1).mean(1)).tolist()
    named = [i for i, prompt in enumerate(prompts) if prompt.eos > 1]
    return FinalStates(
        drift=sum(drifts[i] for i in named) / max(1, len(named)),
        turn=max(0.0, sum(turns[i] for i in named) / max(1, len(named))),
        empty_prompt_drift=max((drift for i, drift in enumerate(drifts) if i not in named), default=0.0),
    )


def reached(
    keys: torch.Tensor, residuals: torch.Tensor, update: LowRank, pair_weights: torch.Tensor | None = None
) -> float:
    """Efficacy on some pairs: 1 - ||R - delta K|| / ||R||, clamped to 0 to 1; 1 where nothing was to be done.

    Args:
        keys: (n, d_in).
        residuals: (n, d_out), v - W0 k.
        pair_weights: (n,), how much each pair counts (default 1).
    """
    left = residuals - keys @ update.down.to(keys).T @ update.up.to(keys).T
    energies = (rows.square().sum(1).double() for rows in (residuals, left))
    before, after = (float((e if pair_weights is None else e * pair_weights).sum()) for e in energies)
    return share_reached(before, after)


def share_reached(energy: float, left: float) -> float:
    """Efficacy from the sum of squared residuals before the edit and after it."""
    return 1.0 if energy == 0 else min(1.0, max(0.0, 1.0 - (left / energy) ** 0.5))
