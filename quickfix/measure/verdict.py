"""A verdict on an edit, in plain words: does it do its work, does it do harm, and what helps.

The thresholds stand where pictures changed. On Shapes ("van gogh" -> "painting" from lambda 0.001 to 3,000, with and
without a preserve set, 21 edits; 12 prompts of it and 21 of other styles and none, of which 20 read right before):

* ``HARMFUL_DRIFT``, of everyday prompts or the empty prompt. Edits with drifts up to 10 % left the others as they were
  (95 % to 100 % read right). From 12 % on most edits cost pictures: 81 % to 86 % read right at drifts of 12 % to 58 %,
  52 % at 70 %, 38 % at 90 %. Three edits of 11 % to 15 %, at the largest lambdas, cost none: so near the line a harmful
  edit may do no harm, but no edit below it did any.
* ``WEAK_EFFICACY``. At an efficacy of 57 % and above none of the 12 prompts read as van gogh any more; at 45 % two did,
  at 43 % eight, at 29 % and below all. Of the 22 edits that the line was drawn by later (``docs/verdicts-shapes.md``),
  one of 47 % left a third of its concept and one of 68 % a ninth. Of the other 22, two of 53 % left 30 %.
* ``WEAK_AT_DOORS``, the same line for edits of an image model's doors, drawn on those of ``docs/doors-shapes.md`` and
  on Shapes XL's of ``docs/gallery.md``: from efficacies of 64 % to 77 %, 9 % to 83 % was left of the concept by all
  edits of Shapes XL but one, which left none; from 79 % on nothing to 20 % was left, but for one color ("pink" ->
  "gray"), which stays at efficacies up to 91 % and which no line tells apart.
* ``WEAK_GENERALITY``, lower than that: where van gogh was gone it was 34 % to 69 %, which is 7 to 63 points below
  efficacy. A third is below all that worked.
* What rounding leaves of an edit weighs like a strength. At strengths from 1 down to 0.6 an edit of efficacy 84 % left
  nothing of van gogh in 12 pictures, at 0.5 it left one, at 0.4 six and at 0.3 eleven: strength times efficacy is 59 %
  at 0.7 and 50 % at 0.6, so ``WEAK_EFFICACY`` is the line here too.
* ``LOST`` and ``LOST_SHARE``. A neighbour that moves half of the way to what its kind shares is gone, as a concept is
  at half of the way to its target; more than one in ten of them is harm. Set beside pictures of 44 edits of styles,
  objects and colors, read by an independent reader, verdicts were wrong about one, and without neighbours about eleven
  (``docs/verdicts-shapes.md``).
* ``MOVED_LINE``, of how far the names move on average, where any is lost. Of Shapes XL's edits of doors those that
  moved them by 0.29 and more lost 5 % to 24 % of the others, and those that moved them by less, none more than 13 %. It
  tells what the count of lost names does not: of 24 things two were lost, and 18 % of the pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ..concepts.built_in import PRESERVED
from ..concepts.settings import EditSettings
from ..solver.spectrum import DRIFT_LIMIT
from .rounding import StorageRounding

HARMFUL_DRIFT = DRIFT_LIMIT
WEAK_EFFICACY = 0.55
WEAK_AT_DOORS = 0.78
WEAK_GENERALITY = 1 / 3
LOST = 0.5
LOST_SHARE = 0.1
MOVED_LINE = 0.28
# The familiarity of made-up names.
MADE_UP = 1.0
# Lambdas that nodes take.
SMALLEST_LAMBDA, LARGEST_LAMBDA = 0.001, 1000.0
_NAMED = 3


# What a verdict can say: findings, each with the advice that follows it. The page has these sentences in other
# languages too (web/texts).
MOVED = "everyday prompts move by {drift}"
MOVED_WORST = "everyday prompts move by {drift}, most {worst}"
MOVED_EMPTY = "the empty prompt, which most pictures use as the negative one, moves by {drift}"
MOVED_NEIGHBOURS = "{lost} of {names} names like it lose what tells them apart, most {worst}"
RAISE_LAMBDA = "raise lambda"
LOWER_LAMBDA = "lower lambda"
TAKE_GUARDED = "take the preset guarded or auto"
PRESERVE_HITS = "preserve the prompts that are hit worst"
PRESERVE_NEIGHBOURS = "preserve the names that are hit worst, in captions like your prompts"
PRESERVE_EMPTY = "preserve the empty prompt"
HOLD_EMPTY = "hold the empty prompt (preserve_mode hard)"
WEAK = "the concept moves only {reached} of the way to its target"
RAISE_STRENGTH = "raise strength"
PRESERVE_FEWER = "preserve fewer prompts"
HOLD_FEWER = "hold fewer prompts, or preserve them softly"
WEAK_ELSEWHERE = "in sentences that it has not seen the edit goes {reached} of the way ({kind})"
ADD_TEMPLATES = "add templates that say the concept as your prompts do (kind custom)"
ADD_MORE_TEMPLATES = "add templates that say the concept as your prompts do"
WEAK_ROUNDED = "only {left} of the edit survives rounding to the model's precision"
USE_FP32 = "load the text encoder in fp32 (ComfyUI's option --fp32-text-enc)"
USE_FP32_MODEL = "load the image model in fp32 (ComfyUI's option --fp32-unet)"
UNKNOWN_SOURCE = "this model does not know {names}: there is nothing to edit"
UNKNOWN_TARGET = "this model does not know {names}: the concept becomes a word without meaning"
SAME_STATES = "this model does not tell {source} from {target}: there is nothing to edit"
HARDLY_KNOWN = "this model hardly knows {names}: it takes made-up names for as much"
CHECK_WORDS = "check the spelling, or take words that this model was trained on"
FINDINGS = (
    MOVED,
    MOVED_WORST,
    MOVED_EMPTY,
    MOVED_NEIGHBOURS,
    WEAK,
    WEAK_ELSEWHERE,
    WEAK_ROUNDED,
    UNKNOWN_SOURCE,
    UNKNOWN_TARGET,
    SAME_STATES,
    HARDLY_KNOWN,
)
ADVICE = (
    RAISE_LAMBDA,
    LOWER_LAMBDA,
    TAKE_GUARDED,
    PRESERVE_HITS,
    PRESERVE_NEIGHBOURS,
    PRESERVE_EMPTY,
    HOLD_EMPTY,
    RAISE_STRENGTH,
    PRESERVE_FEWER,
    HOLD_FEWER,
    ADD_TEMPLATES,
    ADD_MORE_TEMPLATES,
    USE_FP32,
    USE_FP32_MODEL,
    CHECK_WORDS,
)
SENTENCES = (*FINDINGS, *ADVICE)


class Guarding(NamedTuple):
    """What holding prompts cost an edit."""

    held_rank: int
    """Dimensions of the keys that the held prompts span."""
    concept_lost: float
    """Share of the edited keys' energy that lies in that span, where no edit can act."""


class Neighbours(NamedTuple):
    """What an edit does to names of the concept's kind (``neighbours.py``)."""

    names: int
    """How many were looked at."""
    lost: int
    """How many of them move by more than :data:`LOST`."""
    moved: float
    """Mean over the names of how far each moves, where 1 is as far as from it to the mean of the names."""
    worst: tuple[tuple[str, float], ...]
    """The names that move most, with how far they do."""


class Unknown(NamedTuple):
    """Words of concepts that the text encoder does not know (``known.py``)."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    same: tuple[tuple[str, str], ...]
    """Sources and targets with equal states."""
    known: int
    """How many concepts are left."""


class Chosen(NamedTuple):
    """What of an edit's settings the advice of its verdict depends on."""

    lam: float
    guarded: bool
    """Whether all that the preset guarded preserves is preserved."""
    preserved: int
    """How many prompts are preserved softly, at a weight above 0."""
    held: int
    """How many prompts are held."""
    empty_prompt: str
    """ "free", "preserved" or "held"."""
    kept: tuple[str, ...] = ()
    """Those of the prompts and names that the edit hits most that are preserved or held."""
    strength: float = 1.0

    @classmethod
    def of(cls, settings: EditSettings, hits: Iterable[str] = (), strength: float = 1.0) -> Chosen:
        """Of settings whose lambda is found.

        Args:
            hits: the prompts and names that the edit hits most.
        """
        soft = settings.preserve if settings.preserve_weight else ()
        kept = {prompt.casefold() for prompt in (*soft, *settings.hold)}
        empty = "held" if "" in settings.hold else "preserved" if "" in soft else "free"
        return cls(
            lam=settings.lam or 0.0,
            guarded={prompt.casefold() for prompt in PRESERVED} <= kept,
            preserved=len(soft),
            held=len(settings.hold),
            empty_prompt=empty,
            kept=tuple(hit for hit in dict.fromkeys(hits) if hit.casefold() in kept),
            strength=strength,
        )


class Measured(Protocol):
    """What of an :class:`~.report.EditReport` a verdict looks at."""

    @property
    def efficacy(self) -> float | None: ...

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

    @property
    def neighbours(self) -> Neighbours | None: ...

    @property
    def unknown(self) -> Unknown | None: ...

    @property
    def chosen(self) -> Chosen | None: ...

    @property
    def doors(self) -> int: ...

    @property
    def familiarity(self) -> tuple[tuple[str, float], ...]: ...


class Finding(NamedTuple):
    """A reason for a verdict, or what to do about the one before it."""

    sentence: str
    """One of :data:`SENTENCES`."""
    values: dict[str, str]
    """What stands in its places."""

    def text(self) -> str:
        return self.sentence.format(**self.values)


class Verdict(NamedTuple):
    """A word, "strong", "weak", "harmful" or "unknown", and the reasons for it, each with advice; of harm and weakness,
    harm is told. Names that are hardly known are told with any word."""

    word: str
    findings: tuple[Finding, ...] = ()

    def text(self) -> str:
        """ "strong", or the word with why and what to do: "weak: why; what to do"."""
        return ": ".join((self.word, *filter(None, ["; ".join(finding.text() for finding in self.findings)])))


def judge(report: Measured) -> Verdict:
    """The verdict on an edit."""
    unknown = tuple(_unknown(report.unknown))
    if report.efficacy is None:
        return Verdict("unknown", unknown)
    hardly = tuple(_hardly_known(report))
    harm = tuple(_harm(report))
    if harm:
        return Verdict("harmful", (*harm, *hardly))
    weakness = (*unknown, *_weakness(report, report.efficacy))
    return Verdict("weak" if weakness else "strong", (*weakness, *hardly))


def _hardly_known(report: Measured) -> Iterator[Finding]:
    """Names that move the text states no farther than made-up ones. No pictures tell yet what such edits do, so that
    the verdict's word stays what it is."""
    names = [name for name, ratio in report.familiarity if ratio <= MADE_UP]
    if names:
        yield Finding(HARDLY_KNOWN, {"names": _quoted(names)})
        yield Finding(CHECK_WORDS, {})


def _unknown(unknown: Unknown | None) -> Iterator[Finding]:
    if unknown is None:
        return
    if unknown.sources:
        yield Finding(UNKNOWN_SOURCE, {"names": _quoted(unknown.sources)})
    if unknown.targets:
        yield Finding(UNKNOWN_TARGET, {"names": _quoted(unknown.targets)})
    for source, target in unknown.same[:_NAMED]:
        yield Finding(SAME_STATES, {"source": repr(source), "target": repr(target)})
    yield Finding(CHECK_WORDS, {})


def _harm(report: Measured) -> Iterator[Finding]:
    """What is harmed, each with its own advice; the advice that serves all follows at the end."""
    harm = [*_harmed_neighbours(report), *_harmed_prompts(report), *_harmed_empty_prompt(report)]
    yield from harm
    if harm:
        chosen = report.chosen
        if chosen is not None and not chosen.guarded:
            yield Finding(TAKE_GUARDED, {})
        if chosen is None or chosen.lam < LARGEST_LAMBDA:
            yield Finding(RAISE_LAMBDA, {})


def _harmed_neighbours(report: Measured) -> Iterator[Finding]:
    found = report.neighbours
    if found is None or not found.lost or (found.lost <= LOST_SHARE * found.names and found.moved <= MOVED_LINE):
        return
    worst = [name for name, _ in found.worst]
    values = {"lost": str(found.lost), "names": str(found.names), "worst": _quoted(worst[: found.lost])}
    yield Finding(MOVED_NEIGHBOURS, values)
    if _any_free(report, worst):
        yield Finding(PRESERVE_NEIGHBOURS, {})


def _harmed_prompts(report: Measured) -> Iterator[Finding]:
    if report.drift <= HARMFUL_DRIFT:
        return
    values = {"drift": f"{report.drift:.0%}"}
    if report.worst_hit:
        yield Finding(MOVED_WORST, {**values, "worst": repr(report.worst_hit[0][0])})
    else:
        yield Finding(MOVED, values)
    if _any_free(report, [prompt for prompt, _ in report.worst_hit]):
        yield Finding(PRESERVE_HITS, {})


def _harmed_empty_prompt(report: Measured) -> Iterator[Finding]:
    if report.empty_prompt_drift <= HARMFUL_DRIFT:
        return
    yield Finding(MOVED_EMPTY, {"drift": f"{report.empty_prompt_drift:.0%}"})
    kept = report.chosen.empty_prompt if report.chosen is not None else "free"
    if kept != "held":
        yield Finding(PRESERVE_EMPTY if kept == "free" else HOLD_EMPTY, {})


def _any_free(report: Measured, hits: Sequence[str]) -> bool:
    """Whether any of some hits is not preserved yet."""
    kept = report.chosen.kept if report.chosen is not None else ()
    return any(hit not in kept for hit in hits)


def weak_line(report: Measured) -> float:
    """The efficacy below which an edit is weak."""
    return WEAK_AT_DOORS if report.doors else WEAK_EFFICACY


def _weakness(report: Measured, efficacy: float) -> Iterator[Finding]:
    line = weak_line(report)
    weak = efficacy < line
    if weak:
        yield Finding(WEAK, {"reached": f"{efficacy:.0%}"})
        yield from _reach_farther(report)
    poor = [(share, kind) for kind, share in report.generality if share < WEAK_GENERALITY]
    if poor and not weak:
        share, kind = min(poor)
        yield Finding(WEAK_ELSEWHERE, {"reached": f"{share:.0%}", "kind": kind})
        yield Finding(ADD_MORE_TEMPLATES if kind == "custom" else ADD_TEMPLATES, {})
        yield from _lower_lambda(report.chosen)
    reach = 1.0 if weak else efficacy
    if report.storage is not None and report.storage.realised * reach < line:
        yield Finding(WEAK_ROUNDED, {"left": f"{report.storage.realised:.0%}"})
        yield Finding(USE_FP32_MODEL if report.doors else USE_FP32, {})


def _reach_farther(report: Measured) -> Iterator[Finding]:
    """What helps an edit that does not go far enough."""
    chosen = report.chosen
    if chosen is not None and chosen.strength < 1:
        yield Finding(RAISE_STRENGTH, {})
    held = report.guarding is not None and report.guarding.concept_lost > 0.5
    if held:
        yield Finding(HOLD_FEWER, {})
        return
    yield from _lower_lambda(chosen)
    if chosen is not None and chosen.preserved:
        yield Finding(PRESERVE_FEWER, {})
    if chosen is not None and chosen.held:
        yield Finding(HOLD_FEWER, {})


def _lower_lambda(chosen: Chosen | None) -> Iterator[Finding]:
    if chosen is None or chosen.lam > SMALLEST_LAMBDA:
        yield Finding(LOWER_LAMBDA, {})


def _quoted(names: Sequence[str]) -> str:
    """Some names between quotes, and whether there are more."""
    return ", ".join([*map(repr, names[:_NAMED]), *(["..."] if len(names) > _NAMED else [])])
