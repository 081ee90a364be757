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

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .report import EditReport

HARMFUL_DRIFT = 0.1
WEAK_EFFICACY = 0.5
WEAK_GENERALITY = 1 / 3


def judge(report: EditReport) -> str:
    """ "strong", "weak: why and what to do" or "harmful: what and what to do"; harm is named before weakness."""
    harm = _harm(report)
    if harm:
        return f"harmful: {'; '.join(harm)}"
    weakness = _weakness(report)
    return f"weak: {'; '.join(weakness)}" if weakness else "strong"


def _harm(report: EditReport) -> list[str]:
    harm = []
    if report.drift > HARMFUL_DRIFT:
        worst = f", most {report.worst_hit[0][0]!r}" if report.worst_hit else ""
        harm.append(
            f"everyday prompts move by {report.drift:.0%}{worst}; raise lambda, take the preset guarded or auto, or "
            "preserve the prompts that are hit worst"
        )
    if report.empty_prompt_drift > HARMFUL_DRIFT:
        harm.append(
            f"the empty prompt, which most pictures use as the negative one, moves by {report.empty_prompt_drift:.0%}; "
            "preserve or hold the empty prompt"
        )
    return harm


def _weakness(report: EditReport) -> list[str]:
    weakness = []
    if report.efficacy < WEAK_EFFICACY:
        held = report.guarding is not None and report.guarding.concept_lost > 1 - WEAK_EFFICACY
        advice = "hold fewer prompts, or preserve them softly" if held else "lower lambda, or preserve fewer prompts"
        weakness.append(f"the concept moves only {report.efficacy:.0%} of the way to its target; {advice}")
    poor = [(kind, share) for kind, share in report.generality if share < WEAK_GENERALITY]
    if poor and report.efficacy >= WEAK_EFFICACY:
        kind, share = min(poor, key=lambda entry: entry[1])
        weakness.append(
            f"in sentences that it has not seen the edit goes {share:.0%} of the way ({kind}); add templates that say "
            "the concept as your prompts do (kind custom), or lower lambda"
        )
    reach = report.efficacy if report.efficacy >= WEAK_EFFICACY else 1.0
    if report.storage is not None and report.storage.realised * reach < WEAK_EFFICACY:
        weakness.append(
            f"only {report.storage.realised:.0%} of the edit survives rounding to the model's precision; load the text "
            "encoder in fp32 (ComfyUI's option --fp32-text-enc)"
        )
    return weakness
