"""The verdict's advice: only what an edit's settings leave to be done."""

import itertools

from diff_quickfix.quickfix import GUARDED, PAPER, PRESERVED, EditReport, EditSettings, Guarding, StorageRounding
from diff_quickfix.quickfix.measure import verdict as say
from diff_quickfix.quickfix.measure.verdict import Chosen, Neighbours, judge
from hypothesis import given
from hypothesis import strategies as st

HITS = ("a cat", "a dog", "a red car")
NAMES = ("Claude Monet", "Edgar Degas")
CALM = {"specificity": 0.9, "pairs": 4, "rank": 4, "relative_norm": 0.1, "nbytes": 100}
PROMPTS = st.lists(st.sampled_from(["", *HITS, *NAMES, "claude monet"]), unique=True).map(tuple)
SETTINGS = st.builds(
    lambda base, lam, weight, preserve, hold: EditSettings(
        lam=lam, preserve=(*base.preserve, *preserve), preserve_weight=weight, hold=hold
    ),
    st.sampled_from([PAPER, GUARDED]),
    st.sampled_from([1e-4, 0.001, 0.01, 0.1, 30.0, 1000.0, 1e6]),
    st.sampled_from([0.0, 1.0, 3.0]),
    PROMPTS,
    st.one_of(PROMPTS, st.just(tuple(PRESERVED))),
)


@st.composite
def reports(draw):
    """A report of any measures, the settings and the strength that it was made with."""
    settings, strength = draw(SETTINGS), draw(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]))
    share = st.sampled_from([0.0, 0.05, 0.3, 0.6, 0.9])
    hits, names = (draw(st.lists(st.sampled_from(some), unique=True)) for some in (HITS, NAMES))
    worst = tuple((name, 0.9) for name in names)
    report = EditReport(
        efficacy=draw(share),
        drift=draw(share),
        empty_prompt_drift=draw(share),
        worst_hit=tuple((hit, 0.3) for hit in hits),
        generality=((draw(st.sampled_from(["style", "custom"])), draw(share)),),
        guarding=Guarding(3, draw(share)) if settings.hold else None,
        storage=draw(st.sampled_from([None, StorageRounding(0.5, 0.5, 0.2)])),
        neighbours=Neighbours(4, len(names), 0.5, worst) if names else None,
        chosen=Chosen.of(settings, [*hits, *names], strength),
        **CALM,
    )
    return report, settings, strength


@given(reports())
def test_nothing_is_advised_that_is_done_already(made):
    report, settings, strength = made
    said = {finding.sentence for finding in judge(report).findings}
    soft = set(settings.preserve) if settings.preserve_weight else set()
    kept = {prompt.casefold() for prompt in soft | set(settings.hold)}
    possible = {
        say.TAKE_GUARDED: not {prompt.casefold() for prompt in PRESERVED} <= kept,
        say.RAISE_LAMBDA: settings.lam < 1000,
        say.LOWER_LAMBDA: settings.lam > 0.001,
        say.PRESERVE_FEWER: bool(soft),
        say.HOLD_FEWER: bool(settings.hold),
        say.PRESERVE_EMPTY: "" not in kept,
        say.HOLD_EMPTY: "" in soft and "" not in settings.hold,
        say.PRESERVE_HITS: any(hit.casefold() not in kept for hit, _ in report.worst_hit),
        say.PRESERVE_NEIGHBOURS: any(name.casefold() not in kept for name in NAMES),
        say.RAISE_STRENGTH: strength < 1,
        say.ADD_TEMPLATES: report.generality[0][0] != "custom",
        say.ADD_MORE_TEMPLATES: report.generality[0][0] == "custom",
        say.USE_FP32: report.storage is not None and not report.doors,
        say.USE_FP32_MODEL: report.storage is not None and bool(report.doors),
        say.CHECK_WORDS: report.unknown is not None,
    }
    assert possible.keys() == set(say.ADVICE)
    assert not {sentence for sentence in said & possible.keys() if not possible[sentence]}
    assert not {say.RAISE_LAMBDA, say.LOWER_LAMBDA} <= said


@given(reports())
def test_every_reason_has_advice_as_long_as_anything_is_left_to_be_done(made):
    report, settings, _ = made
    verdict = judge(report)
    findings = [finding.sentence for finding in verdict.findings]
    if verdict.word == "strong":
        assert not findings
        return
    assert findings[0] in say.FINDINGS and len(findings) == len(set(findings))
    if verdict.word == "harmful" and settings.lam < 1000:
        assert say.RAISE_LAMBDA in findings
    if verdict.word == "weak" and settings.lam > 0.001:
        assert set(say.ADVICE) & set(findings)
    assert all(part in verdict.text() for part in (finding.text() for finding in verdict.findings))


def test_a_guarded_edit_is_not_told_to_take_the_preset_guarded():
    harm = {"drift": 0.3, "empty_prompt_drift": 0.3, "worst_hit": (("a cat", 0.4),), "efficacy": 0.9, **CALM}
    for extra, hold in itertools.product([(), ("a photo of my dog",)], repeat=2):
        settings = EditSettings(lam=0.1, preserve=(*PRESERVED, *extra), preserve_weight=3.0, hold=hold)
        text = EditReport(**harm, chosen=Chosen.of(settings)).verdict
        assert "preset" not in text and "hold the empty prompt" in text and "preserve the prompts" in text
    paper = EditReport(**harm, chosen=Chosen.of(PAPER)).verdict
    assert "take the preset guarded or auto" in paper and "preserve the empty prompt" in paper


def test_a_report_that_does_not_know_its_settings_advises_none_of_them():
    """Reports of older files."""
    harm = EditReport(efficacy=0.9, drift=0.3, empty_prompt_drift=0.3, worst_hit=(), **CALM)
    assert "preset" not in harm.verdict and "raise lambda" in harm.verdict
    weak = EditReport(efficacy=0.1, drift=0.0, empty_prompt_drift=0.0, worst_hit=(), **CALM)
    assert weak.verdict.endswith("lower lambda")
