"""What an edit does, measured from the weights before any picture is made.

Does the concept arrive (efficacy), in other sentences too (generality), do other prompts' tokens keep their outputs
(specificity), and how far do unrelated prompts move (drift)? These are measured where the edit acts, right after the
edited attention; how far the text states that the image model reads move is measured by running all layers on a few
captions (``FinalStates``). The image model may dampen or magnify what it is given.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...families.clip import ENCODERS
from .rounding import StorageRounding, storage_rounding
from .verdict import Chosen, Guarding, Neighbours, Unknown, judge


class FinalStates(NamedTuple):
    """How far the last hidden states of everyday captions move, the mean over captions."""

    drift: float
    """Relative L2 change."""
    turn: float
    """1 - cosine of the states before and after, the mean over tokens."""
    empty_prompt_drift: float
    """Relative L2 change of the empty prompt's; not in the mean."""


class Breadth(NamedTuple):
    """The list of names that guarded an edit (``quickfix/breadth.py``)."""

    list: str
    """Its name, with its version."""
    captions: int
    """How many captions of its names counted."""
    left_out: tuple[str, ...]
    """Names left out since they name a concept, the first of them."""
    weight: float
    """As how many preserved captions the list counted."""
    selectivity: float
    """How far its keys took the place of the identity in the ridge."""
    names: int = 0
    """How many of its names counted; 0 in files of versions that did not say."""
    contexts: int = 0
    """In how many captions each name stands; 0 as above."""


@dataclass(frozen=True)
class EditReport:
    """The measured effect and cost of an edit.

    Attributes:
        efficacy: 0 (nothing reached) to 1 (every edited key gives its value): 1 - ||W'K - V|| / ||W K - V||; None where
            the text encoder knows no concept of the edit.
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
        final: drift of the last hidden states, where measured (see :func:`~.effect.measure_final`).
        basis: what the edit was computed from, where that is not simply the model's weights.
        contested: (source, preserved prompt, cosine) with nearly the same key: to keep the one is to keep the other.
        neighbours: what happens to names of the concepts' kinds, where there are any.
        unknown: words that the text encoder does not know, where there are any.
        chosen: of the settings, what advice depends on.
        pooled: efficacy in the pooled vector of whole captions, where its door is edited too.
        doors: how many linear maps of an image model are edited; 0 for an edit of a text encoder.
        encoder: the text encoder that is edited, a key of :data:`~.families.clip.ENCODERS`; empty for doors.
        familiarity: (name, how far it moves the text states beside made-up names of as many tokens, which is 1 for one
            that is like them), of some of the concepts of an edit of doors (``familiarity.py``).
        breadth: the list of names that guarded the edit, where one did.
    """

    efficacy: float | None
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
    basis: str = ""
    neighbours: Neighbours | None = None
    unknown: Unknown | None = None
    chosen: Chosen | None = None
    pooled: float | None = None
    doors: int = 0
    encoder: str = ""
    familiarity: tuple[tuple[str, float], ...] = ()
    breadth: Breadth | None = None

    @property
    def verdict(self) -> str:
        """ "strong", or "weak: ...", "harmful: ..." or "unknown: ..." with why and what to do (see ``verdict.py``)."""
        return judge(self).text()

    def text(self) -> str:
        """A summary for people, some lines."""
        lines = [f"verdict: {self.verdict}", *self._encoder_lines()]
        if self.efficacy is not None:
            lines.append(
                f"efficacy: {self.efficacy:.1%} of the way from the concept to its target, over {self.pairs} token "
                "pairs"
            )
        if self.generality:
            kinds = ", ".join(f"{reached:.1%} ({kind})" for kind, reached in self.generality)
            lines.append(f"generality: {kinds} in sentences that the edit has not seen")
        if self.pooled is not None:
            lines.append(f"pooled vector: {self.pooled:.1%} of the way in whole captions")
        lines += [
            f"specificity: {self.specificity:.1%} (words of everyday prompts keep their outputs)",
            f"drift: {self.drift:.2%} on everyday prompts, {self.empty_prompt_drift:.2%} on the empty prompt",
        ]
        if self.final is not None:
            lines.append(
                f"final text states: drift {self.final.drift:.2%} (1 - cosine {self.final.turn:.4f}) on everyday "
                f"captions, {self.final.empty_prompt_drift:.2%} on the empty prompt"
            )
        return "\n".join([*lines, *self._name_lines(), *self._technical_lines()])

    def _name_lines(self) -> list[str]:
        """What becomes of names and prompts, each by itself."""
        lines = []
        if self.neighbours is not None:
            names = "; ".join(f"{name!r} {moved:.0%}" for name, moved in self.neighbours.worst)
            lines.append(
                f"neighbours: {self.neighbours.lost} of {self.neighbours.names} names like the concept lose more than "
                f"half of what tells them apart, {self.neighbours.moved:.0%} on the mean; most: {names}"
            )
        if self.familiarity:
            names = "; ".join(f"{name!r} {ratio:.1f}" for name, ratio in self.familiarity)
            lines.append(f"known: {names} times as far from made-up names of as many tokens as these from each other")
        if self.worst_hit:
            worst = "; ".join(f"{prompt!r} {drift:.2%}" for prompt, drift in self.worst_hit)
            lines.append(f"worst hit: {worst}")
        if self.skipped_preserve:
            lines.append(f"not preserved, since they name the concept: {', '.join(map(repr, self.skipped_preserve))}")
        if self.breadth is not None:
            lines.append(_breadth_line(self.breadth))
        for source, prompt, cosine in self.contested:
            lines.append(f"contested: {source!r} and the preserved {prompt!r} have nearly the same key ({cosine:.3f})")
        return lines

    def _encoder_lines(self) -> list[str]:
        """Which text encoder is edited, where a model has several."""
        encoder = ENCODERS.get(self.encoder)
        if encoder is None or encoder.causal:
            return []
        return [
            f"edited: {encoder.full_title}; the text encoders of such models hold no single state of a "
            "concept (arXiv 2405.01008), so that pictures may keep it. Remove Concept edits what the image model reads"
        ]

    def _technical_lines(self) -> list[str]:
        size = f"rank {self.rank}, {self.nbytes / 1024:.0f} KiB, {self.relative_norm:.2%} of the weight's norm"
        if self.doors:
            size = f"rank {self.rank} at {self.doors} doors of the image model, {self.nbytes / 1024:.0f} KiB"
        lines = [f"size: {size}"]
        if self.chosen is not None:
            lines.append(f"lambda: {self.chosen.lam:.3g}")
        if self.basis:
            lines.append(f"computed from: {self.basis}")
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
        for name in ("storage", "guarding", "final", "neighbours", "unknown", "chosen", "breadth"):
            value = getattr(self, name)
            fields[name] = None if value is None else value._asdict()
        fields["milliseconds"] = dict(self.milliseconds)
        fields["generality"] = dict(self.generality)
        fields["familiarity"] = dict(self.familiarity)
        verdict = judge(self)
        fields |= {"verdict": verdict.text(), "findings": [[*finding] for finding in verdict.findings]}
        return json.loads(json.dumps(fields))

    def with_storage(
        self, weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype, arithmetic: torch.dtype = torch.float32
    ) -> EditReport:
        """This report with what rounding the edited weight to ``dtype`` costs (see :func:`storage_rounding`)."""
        return dataclasses.replace(self, storage=storage_rounding(weight, delta, dtype, arithmetic))

    def with_final(self, final: FinalStates) -> EditReport:
        """This report with the drift of the last hidden states."""
        return dataclasses.replace(self, final=final)


def _breadth_line(breadth: Breadth) -> str:
    names = f"{breadth.names} names in up to {breadth.contexts} contexts" if breadth.names else "names"
    line = f"guarded by breadth: {breadth.captions} captions of {names} ({breadth.list}), weight {breadth.weight:g}"
    if breadth.selectivity:
        line += f", selectivity {breadth.selectivity:g}"
    if breadth.left_out:
        line += f"; left out, since they name the concept: {', '.join(map(repr, breadth.left_out))}"
    return line
