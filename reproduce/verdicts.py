"""Whether the paper's claims hold on a model, by stated rules, with the numbers that decide."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..families.heads import kind_of
from ..sweeps.scores import SweepScores
from ..tracing.results.judgement import Judgement, judge
from ..tracing.results.sign_flips import LEAST_PROMPTS
from ..tracing.results.statistics import mean_interval
from ..tracing.results.trace import CausalTrace
from .edits import IN_IMAGE_MODEL, EditResult

HOLDS, FAILS, UNKNOWN = "holds", "does not hold", "cannot be told"
LAST = "last subject token"
SURE = 0.95


@dataclass(frozen=True)
class Verdict:
    """What a model says to one claim.

    Attributes:
        claim: the paper's, by its id.
        of: of which attribute or concepts; "" for all.
        verdict: one of :data:`HOLDS`, :data:`FAILS`, :data:`UNKNOWN`.
        why: the numbers, in words.
    """

    claim: str
    of: str
    verdict: str
    why: str


RULES = {
    "text": "Holds where, among the self-attention layers at the last subject token, the first brings back more than "
    f"the control, is the strongest in at least {SURE:.0%} of the resamples of prompts, and the 95 % interval of every "
    "other layer ends below half of its effect. Does not hold where another layer brings back more than the control "
    "and its interval begins above half of the first one's effect, or where the first does not bring back more and "
    "another does. With several text encoders the first layer of the strongest one counts as the first.",
    "spread": "Holds where at least three sites bring back more than the control, and the third of them at least half "
    "as much as the strongest. Does not hold where the interval of the strongest begins above twice the end of every "
    "other's.",
    "cross": "Holds where a self-attention or a residual block brings back more than the control and no "
    "cross-attention does. Does not hold where a cross-attention does.",
    "layer": "By the scorer's drop for prompts that name the concept. Holds where the drop's 95 % interval at the "
    "first layer lies above zero, and so does that of its lead over each other layer. Does not hold where the "
    "interval of the first layer's drop, or of its lead over some other layer, lies below zero. A distance of latents "
    "says that a picture changed, not whether the concept left: without a scorer it cannot be told.",
    "single": "By the scorer's drop for prompts that name the concept. Holds where its 95 % interval lies above zero "
    "for each concept; does not hold where it ends below zero for one. Without a scorer it cannot be told.",
    "ten": "As for a single concept, over all prompts that name one of the ten.",
}
"""How each claim is decided; all other cases cannot be told."""


def claims() -> list[dict[str, str]]:
    """The paper's claims with their sources."""
    return list(_published()["claims"])


def figures() -> list[dict[str, Any]]:
    """Published numbers, by the experiment that they belong to, with their sources."""
    return list(_published()["figures"])


@functools.cache
def _published() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "published.json").read_text(encoding="utf-8"))
    return found


def verdicts_of(scores: Mapping[tuple[str, str], SweepScores], edits: Sequence[EditResult]) -> tuple[Verdict, ...]:
    """A verdict for each claim and attribute.

    Args:
        scores: by component ("text", "image") and attribute.
    """
    found = [
        judged(scored.trace, attribute)
        for (component, attribute), scored in scores.items()
        for judged in ([text_verdict] if component == "text" else [spread_verdict, cross_verdict])
    ]
    found += [layer_verdict(edits), *(drop_verdict(name, edits) for name in ("single", "ten"))]
    there = {one.claim for one in found}
    nothing = "Nothing was traced that it could be judged by."
    return (*found, *(Verdict(c["id"], "", UNKNOWN, nothing) for c in claims() if c["id"] not in there))


@dataclass(frozen=True, eq=False)
class _Line:
    """Some sites at one column, judged by themselves."""

    names: tuple[str, ...]
    effects: torch.Tensor
    judgement: Judgement

    @classmethod
    def of(cls, trace: CausalTrace, rows: Sequence[int], column: int) -> _Line:
        chosen = torch.tensor(rows)
        part = dataclasses.replace(
            trace,
            sites=tuple(trace.sites[row] for row in rows),
            columns=(trace.columns[column],),
            restored=trace.restored[..., chosen, :][..., column : column + 1],
        )
        return cls(part.sites, part.average_indirect_effect()[:, 0], judge(part))

    def more(self, row: int) -> bool:
        return bool(self.judgement.verdict[row, 0] == 1)

    def low(self, row: int) -> float:
        return float(self.judgement.low[row, 0])

    def high(self, row: int) -> float:
        return float(self.judgement.high[row, 0])

    def unjudged(self) -> str:
        """Why nothing is claimed."""
        found = self.judgement
        if found.prompts < LEAST_PROMPTS:
            return f"{found.prompts} prompts with an effect and a control; {LEAST_PROMPTS} are needed."
        return "There is nothing to compare with."

    def order(self) -> list[int]:
        known = self.effects.nan_to_num(-torch.inf)
        return [row for row in known.argsort(descending=True, stable=True).tolist() if self.effects[row].isfinite()]

    def said(self, row: int) -> str:
        """A site with its numbers."""
        first = float(self.judgement.first[row, 0])
        stable = f", the strongest in {first:.0%} of resamples" if first == first else ""
        control = "more than the control" if self.more(row) else "no more than the control"
        if not self.judgement.judged:
            control = "not judged"
        ends = (
            f" (95 % interval {self.low(row):+.4f} to {self.high(row):+.4f})" if self.low(row) == self.low(row) else ""
        )
        return f"{self.names[row]} {float(self.effects[row]):+.4f}{ends}, {control}{stable}"


def text_verdict(trace: CausalTrace, attribute: str) -> Verdict:
    """Whether the first self-attention at the last subject token is the only causal state (:data:`RULES`)."""
    rows = [row for row, name in enumerate(trace.sites) if kind_of(name) == "self_attn"]
    if not rows or LAST not in trace.columns:
        return Verdict("text", attribute, UNKNOWN, "No self-attention was traced at the last subject token.")
    line = _Line.of(trace, rows, trace.columns.index(LAST))
    order = line.order()
    firsts = [row for row in order if line.names[row].split(".")[-2] == "0"]
    if not firsts:
        return Verdict("text", attribute, UNKNOWN, "The first layer was not traced.")
    first, others = firsts[0], [row for row in order if row != firsts[0]]
    half = float(line.effects[first]) / 2
    why = f"{line.said(first)}." + (f" Next: {line.said(others[0])}." if others else "")
    if not line.judgement.judged:
        return Verdict("text", attribute, UNKNOWN, f"{why} {line.unjudged()}")
    rivals = [row for row in others if line.more(row) and (not line.more(first) or line.low(row) > half)]
    if rivals:
        return Verdict("text", attribute, FAILS, f"{line.said(first)}. Beside it: {line.said(rivals[0])}.")
    alone = bool(others) and all(line.high(row) < half for row in others)
    sure = float(line.judgement.first[first, 0]) >= SURE
    return Verdict("text", attribute, HOLDS if line.more(first) and alone and sure else UNKNOWN, why)


@functools.lru_cache(maxsize=1)
def _image_line(trace: CausalTrace) -> _Line:
    """All sites of an image model; two claims are judged by the same."""
    return _Line.of(trace, range(len(trace.sites)), 0)


def spread_verdict(trace: CausalTrace, attribute: str) -> Verdict:
    """Whether knowledge in the UNet is spread (:data:`RULES`)."""
    if not trace.sites[0].startswith("unet."):
        return Verdict("spread", attribute, UNKNOWN, "The model has a transformer in place of a UNet.")
    line = _image_line(trace)
    order = line.order()
    if not order or not line.judgement.judged:
        return Verdict("spread", attribute, UNKNOWN, line.unjudged())
    best, others = order[0], order[1:]
    causal = [row for row in order if line.more(row)]
    why = f"{len(causal)} of {len(order)} sites bring back more than the control. Strongest: {line.said(best)}."
    if len(causal) >= 3 and float(line.effects[causal[2]]) >= float(line.effects[causal[0]]) / 2:
        return Verdict("spread", attribute, HOLDS, f"{why} Third: {line.said(causal[2])}.")
    if line.more(best) and others and all(line.low(best) > 2 * line.high(row) for row in others):
        return Verdict("spread", attribute, FAILS, f"{why} Next: {line.said(others[0])}.")
    return Verdict("spread", attribute, UNKNOWN, why)


def cross_verdict(trace: CausalTrace, attribute: str) -> Verdict:
    """Whether cross-attention is not causally important (:data:`RULES`)."""
    if not trace.sites[0].startswith("unet."):
        return Verdict("cross", attribute, UNKNOWN, "The model has a transformer in place of a UNet.")
    line = _image_line(trace)
    order = line.order()
    crossing = [row for row in order if kind_of(line.names[row]) == "cross_attn"]
    others = [row for row in order if kind_of(line.names[row]) in ("self_attn", "resnet")]
    if not crossing or not others or not line.judgement.judged:
        return Verdict("cross", attribute, UNKNOWN, line.unjudged())
    causal = [row for row in crossing if line.more(row)]
    why = f"Strongest cross-attention: {line.said(crossing[0])}. Strongest of the others: {line.said(others[0])}."
    if causal:
        more = f"{len(causal)} of {len(crossing)} cross-attentions bring back more than the control."
        return Verdict("cross", attribute, FAILS, f"{more} {why}")
    return Verdict("cross", attribute, HOLDS if any(line.more(row) for row in others) else UNKNOWN, why)


@dataclass(frozen=True)
class Mean:
    """A mean over prompts with its 95 % interval (NaN with one prompt)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean | None:
        """Of some values; None of none."""
        if not values:
            return None
        numbers = torch.tensor(values, dtype=torch.float32)[:, None]
        low, high = mean_interval(numbers)
        return cls(float(numbers.mean()), float(low[0]), float(high[0]))

    def text(self) -> str:
        if self.low != self.low:
            return f"{self.mean:+.4f} (one prompt)"
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"


def drops(result: EditResult, *, names: bool = True) -> list[float]:
    """By how much the scorer's number falls, for each prompt that names the concept, or names it not."""
    return [
        one.before - one.after
        for one in result.painted
        if one.names == names and one.before is not None and one.after is not None
    ]


def layer_verdict(edits: Sequence[EditResult]) -> Verdict:
    """Whether the edit works at the first layer and at no other as well (:data:`RULES`)."""
    found = {one.layer: drops(one) for one in edits if one.experiment == "layers"}
    if not found:
        return Verdict("layer", "", UNKNOWN, "The edit at each layer was skipped.")
    first = found.pop(0, None)
    if not first or not found:
        return Verdict("layer", "", UNKNOWN, "No scorer was given (--scorer), or one layer alone was edited.")
    drop = Mean.of(first)
    leads = {layer: Mean.of([a - b for a, b in zip(first, values, strict=True)]) for layer, values in found.items()}
    assert drop is not None
    rival, least = min(((layer, lead) for layer, lead in leads.items() if lead), key=lambda entry: entry[1].low)
    why = f"At layer 0 the score falls by {drop.text()}; its smallest lead is over layer {rival}: {least.text()}."
    if drop.low > 0 and all(lead.low > 0 for lead in leads.values() if lead):
        return Verdict("layer", "", HOLDS, why)
    worse = drop.high < 0 or any(lead.high < 0 for lead in leads.values() if lead)
    return Verdict("layer", "", FAILS if worse else UNKNOWN, why)


def drop_verdict(experiment: str, edits: Sequence[EditResult]) -> Verdict:
    """Whether the edit takes its concepts away (:data:`RULES`)."""
    found = {one.title: Mean.of(drops(one)) for one in edits if one.experiment == experiment}
    if not found:
        return Verdict(experiment, "", UNKNOWN, "The edits were skipped.")
    known = {title: one for title, one in found.items() if one is not None}
    if not known:
        return Verdict(experiment, "", UNKNOWN, "No scorer was given (--scorer).")
    why = "; ".join(f"{title}: the score falls by {one.text()}" for title, one in known.items()) + "."
    if any(one.layer == IN_IMAGE_MODEL for one in edits if one.experiment == experiment):
        return Verdict(experiment, "", UNKNOWN, f"Edited in the image model, which is not the paper's edit. {why}")
    if len(known) == len(found) and all(one.low > 0 for one in known.values()):
        return Verdict(experiment, "", HOLDS, why)
    return Verdict(experiment, "", FAILS if any(one.high < 0 for one in known.values()) else UNKNOWN, why)
