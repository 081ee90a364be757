"""The independent reader, and the study of edits that it judges."""

import pytest
import torch
from diff_quickfix.demo_model.architecture import UNETS
from diff_quickfix.demo_model.pipeline import load_pipeline
from diff_quickfix.demo_model.reader import Reader
from diff_quickfix.demo_model.studies.edit_table import Outcome, Share, outcome
from diff_quickfix.demo_model.studies.edits import KINDS, TRIALS, Trial, edit_of
from diff_quickfix.demo_model.training.reader import held_out_accuracy
from diff_quickfix.demo_model.worlds.catalog import SHAPES
from diff_quickfix.demo_model.worlds.world import Scene
from diff_quickfix.quickfix import EditReport
from diff_quickfix.quickfix.measure.verdict import Unknown


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline()


@pytest.mark.parametrize("architecture", UNETS.values(), ids=UNETS)
def test_painted_scenes_that_it_never_saw_are_read(architecture):
    assert min(held_out_accuracy(Reader(architecture), 60, seed=91).values()) >= 95


@pytest.mark.parametrize("shape", [(3, 128, 128), (1, 3, 64, 64), (1, 1, 128, 128)])
def test_pictures_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="the reader takes"):
        Reader().read(torch.zeros(shape))


def test_trials_name_what_they_say():
    assert len(TRIALS) == len({trial.name for trial in TRIALS}) >= 36
    for trial in TRIALS:
        preserved = trial.settings().preserve
        named = {value for value in trial.neighbours() if any(value in prompt for prompt in preserved)}
        if trial.preset == "paper" or trial.naming == "unnamed":
            assert not named
        elif trial.naming == "broad":
            assert named == set(trial.neighbours())
        elif trial.naming == "half":
            assert 0 < len(named) < len(trial.neighbours())
        assert set(trial.neighbours()) <= set(KINDS.get(trial.attribute, ()))


def test_wilsons_interval_holds_the_shares_that_are_within_two_standard_errors():
    """Oracle: its definition, |count/n - p| = z sqrt(p (1 - p) / n) at both ends."""
    for count, of in ((0, 8), (3, 28), (28, 28), (14, 28)):
        for end in Share(count, of).interval():
            p = end / 100
            assert abs(count / of - p) == pytest.approx(1.96 * (max(0.0, p * (1 - p)) / of) ** 0.5, abs=1e-6)
    assert Share(0, 0).interval() == (0, 100)


def report(word):
    efficacy, drift = {"strong": (0.9, 0.0), "weak": (0.1, 0.0), "harmful": (0.9, 0.5), "unknown": (None, 0.0)}[word]
    numbers = {"specificity": 1.0, "pairs": 1, "rank": 1, "relative_norm": 0.1, "nbytes": 1}
    unknown = Unknown(("x",), (), (), 0) if word == "unknown" else None
    return EditReport(efficacy, drift=drift, empty_prompt_drift=0.0, worst_hit=(), unknown=unknown, **numbers)


@pytest.mark.parametrize(
    ("word", "lost", "left", "wrong"),
    [
        ("strong", 0, 0, ""),
        ("strong", 2, 2, ""),
        ("strong", 3, 0, "harm is not told"),
        ("strong", 0, 3, "the concept is left"),
        ("weak", 0, 8, ""),
        ("weak", 0, 1, ""),
        ("weak", 0, 0, "the concept is gone"),
        ("weak", 9, 8, "harm is not told"),
        ("harmful", 1, 0, "nothing is harmed"),
        ("harmful", 2, 8, ""),
        ("harmful", 28, 0, ""),
    ],
)
def test_a_verdict_is_wrong_where_pictures_say_otherwise(word, lost, left, wrong):
    every = {name: Share(0, 28) for name in SHAPES.values}
    assert Outcome("", Share(left, 8), {**every, "style": Share(lost, 28)}, report(word)).wrong() == wrong


def test_what_is_lost_and_left_is_counted():
    scenes = [vars(Scene("star", "red", "on grass", style)) for style in ("van gogh", "van gogh", "plain", "plain")]
    before, read = ({name: [scene[name] for scene in scenes] for name in SHAPES.values} for _ in range(2))
    read["style"][1], read["style"][2], read["color"][3], read["color"][0] = "plain", "van gogh", "blue", "blue"
    # What did not read right before does not count after.
    before["object"][2], read["object"][2] = "cross", "ring"
    found = outcome("", ("style", "van gogh"), scenes, (before, read), report("strong"))
    assert found.left == Share(1, 2)
    assert found.lost == {
        **{name: Share(int(name in ("style", "color")), 2) for name in SHAPES.values},
        "object": Share(0, 1),
    }
    assert outcome("", ("", "two"), scenes, (before, read), report("strong")).left == Share(0, 0)


@pytest.mark.parametrize(
    ("trial", "word"),
    [
        (Trial("style", "van gogh", "painting"), "strong"),
        (Trial("style", "van gogh", "painting", naming="unnamed"), "harmful"),
        (Trial("style", "bridget riley", "painting", naming="unnamed"), "harmful"),
        (Trial("color", "red", "blue", naming="unnamed"), "harmful"),
        (Trial("color", "purple", "white", naming="broad"), "strong"),
        (Trial("style", "bridget riley", "painting", lam=1000.0), "weak"),
        (Trial("object", "snoopy", "dog"), "unknown"),
    ],
)
def test_the_verdict_sees_neighbours_that_nobody_named(pipeline, trial, word):
    assert edit_of(pipeline, trial).report.verdict.split(":")[0] == word
