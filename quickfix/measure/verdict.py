"""A verdict on an edit, in plain words: does it do its work, does it do harm, and what helps.

The thresholds stand where pictures changed. On Shapes ("van gogh" -> "painting" from lambda 0.001 to 3,000, with and
without a preserve set, 21 edits; 12 prompts of it and 21 of other styles and none, of which 20 read right before):

* ``HARMFUL_DRIFT``, of everyday prompts or the empty prompt. Edits with drifts up to 10 % left the others as they were
  (95 % to 100 % read right). From 12 % on most edits cost pictures: 81 % to 86 % read right at drifts of 12 % to 58 %,
  52 % at 70 %, 38 % at 90 %. Three edits of 11 % to 15 %, at the largest lambdas, cost none: so near the line a harmful
  edit may do no harm, but no edit below it did any.
* ``WEAK_EFFICACY``. At an efficacy of 57 % and above none of the 12 prompts read as van gogh any more; at 45 % two did,
  at 43 % eight, at 29 % and below all.
* ``WEAK_GENERALITY``, lower than that: where van gogh was gone it was 34 % to 69 %, which is 7 to 63 points below
  efficacy. A third is below all that worked.
* What rounding leaves of an edit weighs like a strength. At strengths from 1 down to 0.6 an edit of efficacy 84 % left
  nothing of van gogh in 12 pictures, at 0.5 it left one, at 0.4 six and at 0.3 eleven: strength times efficacy is 50 %
  at 0.6, so ``WEAK_EFFICACY`` is the line here too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

from ..solver.spectrum import DRIFT_LIMIT
from .rounding import StorageRounding

HARMFUL_DRIFT = DRIFT_LIMIT
WEAK_EFFICACY = 0.5
WEAK_GENERALITY = 1 / 3


# What a verdict can say; the page has these sentences in other languages too (web/texts).
HARM = (
    "everyday prompts move by {drift}; raise lambda, take the preset guarded or auto, or preserve prompts that are hit"
)
HARM_WORST = (
    "everyday prompts move by {drift}, most {worst}; raise lambda, take the preset guarded or auto, or preserve the "
    "prompts that are hit worst"
)
HARM_EMPTY = (
    "the empty prompt, which most pictures use as the negative one, moves by {drift}; preserve or hold the empty prompt"
)
WEAK = "the concept moves only {reached} of the way to its target; lower lambda, or preserve fewer prompts"
WEAK_HELD = "the concept moves only {reached} of the way to its target; hold fewer prompts, or preserve them softly"
WEAK_ELSEWHERE = (
    "in sentences that it has not seen the edit goes {reached} of the way ({kind}); add templates that say the concept "
    "as your prompts do (kind custom), or lower lambda"
)
WEAK_ROUNDED = (
    "only {left} of the edit survives rounding to the model's precision; load the text encoder in fp32 (ComfyUI's "
    "option --fp32-text-enc)"
)
SENTENCES = (HARM, HARM_WORST, HARM_EMPTY, WEAK, WEAK_HELD, WEAK_ELSEWHERE, WEAK_ROUNDED)


class Guarding(NamedTuple):
    """What holding prompts cost an edit."""

    held_rank: int
    """Dimensions of the keys that the held prompts span."""
    concept_lost: float
    """Share of the edited keys' energy that lies in that span, where no edit can act."""


class Measured(Protocol):
    """What of an :class:`~.report.EditReport` a verdict looks at."""

    @property
    def efficacy(self) -> float: ...

    @property
    def drift(self) -> float: ...

    @property
    def empty_prompt_drift(self) -> float: ...

    @property
    def worst_hit(self) -> tuple[tuple[str, float], ...]: ...

    @property
    def generality(self) -> tuple[tuple[str, float], ...]: ...

    @property
    def guarding(self) -> Guarding | None: ...

    @property
    def storage(self) -> StorageRounding | None: ...


class Finding(NamedTuple):
    """A reason for a verdict, and what to do about it."""

    sentence: str
    """One of :data:`SENTENCES`."""
    values: dict[str, str]
    """What stands in its places."""

    def text(self) -> str:
        return self.sentence.format(**self.values)


class Verdict(NamedTuple):
    """A word, "strong", "weak" or "harmful", and the reasons for it; harm is named before weakness."""

    word: str
    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """ "strong", "weak: why and what to do" or "harmful: what and what to do"."""
        return ": ".join((self.word, *filter(None, ["; ".join(finding.text() for finding in self.findings)])))


def judge(report: Measured) -> Verdict:
    """The verdict on an edit."""
    harm = tuple(_harm(report))
    if harm:
        return Verdict("harmful", harm)
    weakness = tuple(_weakness(report))
    return Verdict("weak", weakness) if weakness else Verdict("strong")


def _harm(report: Measured) -> Iterator[Finding]:
    if report.drift > HARMFUL_DRIFT:
        values = {"drift": f"{report.drift:.0%}"}
        if report.worst_hit:
            yield Finding(HARM_WORST, {**values, "worst": repr(report.worst_hit[0][0])})
        else:
            yield Finding(HARM, values)
    if report.empty_prompt_drift > HARMFUL_DRIFT:
        yield Finding(HARM_EMPTY, {"drift": f"{report.empty_prompt_drift:.0%}"})


def _weakness(report: Measured) -> Iterator[Finding]:
    weak = report.efficacy < WEAK_EFFICACY
    if weak:
        held = report.guarding is not None and report.guarding.concept_lost > 1 - WEAK_EFFICACY
        yield Finding(WEAK_HELD if held else WEAK, {"reached": f"{report.efficacy:.0%}"})
    poor = [(share, kind) for kind, share in report.generality if share < WEAK_GENERALITY]
    if poor and not weak:
        share, kind = min(poor)
        yield Finding(WEAK_ELSEWHERE, {"reached": f"{share:.0%}", "kind": kind})
    reach = 1.0 if weak else report.efficacy
    if report.storage is not None and report.storage.realised * reach < WEAK_EFFICACY:
        yield Finding(WEAK_ROUNDED, {"left": f"{report.storage.realised:.0%}"})
