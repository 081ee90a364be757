"""Targets ranked from one decomposition: each number against whole edits, and what the criterion is for."""

import dataclasses

import pytest
import torch
from diff_quickfix.quickfix import (
    AUTO,
    GUARDED,
    KNOWN_NAMES,
    PAPER,
    PLAIN_WORDS,
    ConceptEdit,
    compute_edit,
    find_lambda,
    find_target,
    scan,
)
from diff_quickfix.quickfix.concepts.built_in import HELD_OUT_TEMPLATES
from diff_quickfix.quickfix.measure.charts import draw_targets
from diff_quickfix.quickfix.stream import edited_layer, encode_pairs, tokenize_pairs
from diff_quickfix.text.prompts import PromptError

WORDS = ("painting", "a dog", "claude monet")


@pytest.fixture(scope="module")
def ranking(small_tower, tokenizer):
    return find_target(small_tower, tokenizer, "van gogh", "style", WORDS)


def end_states(tower, tokenizer, word, edited=None):
    """By whole runs of the tower over all 77 tokens."""
    prompts = [tokenizer.tokenize(template.replace("{x}", word)) for template in HELD_OUT_TEMPLATES["style"]]
    states = tower.hidden_states([prompt.ids for prompt in prompts], edited)
    return torch.stack([states[i, p.eos : p.eos + 4] for i, p in enumerate(prompts)])


def test_each_candidate_is_judged_as_its_own_edit_would_be(ranking, small_tower, tokenizer):
    assert {one.target for one in ranking.candidates} == set(WORDS)
    plain = torch.stack([end_states(small_tower, tokenizer, word) for word in PLAIN_WORDS["style"]]).mean(0)
    before = (end_states(small_tower, tokenizer, "van gogh") - plain).norm()
    for one in ranking.candidates:
        concept = ConceptEdit("van gogh", one.target)
        curve = find_lambda(small_tower, tokenizer, [concept], GUARDED)
        assert (one.lam, one.efficacy) == (curve.best, pytest.approx(curve.efficacy[curve.knee], abs=1e-6))
        assert one.drift == pytest.approx(curve.drift[curve.knee], rel=1e-4)
        edit = compute_edit(small_tower, tokenizer, [concept], dataclasses.replace(GUARDED, lam=one.lam))
        weight, _ = edited_layer(small_tower, GUARDED)
        keys = encode_pairs(small_tower, tokenize_pairs(tokenizer, [concept], GUARDED.positions), GUARDED).source
        change = (keys @ edit.delta().T).norm() / (keys @ weight.T).norm()
        assert one.change == pytest.approx(float(change), rel=1e-3)
        edited = {edit.weight_name: weight + edit.delta()}
        after = (end_states(small_tower, tokenizer, "van gogh", edited) - plain).norm()
        assert one.removal == pytest.approx(float(1 - after / before), abs=1e-3)
        hits = scan(small_tower, tokenizer, edit, most=len(KNOWN_NAMES)).hits
        rms = (sum(hit.drift**2 for hit in hits) / len(hits)) ** 0.5
        assert one.collateral == pytest.approx(rms, rel=0.02)


def test_the_best_removes_most_for_its_drift(ranking):
    worth = [one.removal - one.drift / 0.1 for one in ranking.candidates]
    assert worth == sorted(worth, reverse=True) and ranking.best is ranking.candidates[0]
    headline, _, *rows = ranking.text().splitlines()
    assert headline.endswith(repr(ranking.best.target))
    assert [row.split("  ")[0] for row in rows[:-1]] == [one.target for one in ranking.candidates]
    assert ranking.as_dict()["best"] == ranking.best.target
    assert [entry["worth"] for entry in ranking.as_dict()["candidates"]] == pytest.approx(worth)


def test_a_target_that_is_nearly_the_source_removes_nearly_nothing(small_tower, tokenizer):
    near = ConceptEdit("van gogh", "van gogh .", "custom", ("{x}",))
    found = find_target(
        small_tower, tokenizer, near.source, "custom", [near.target, "painting"], templates=near.templates
    ).candidates
    removal = {one.target: abs(one.change) for one in found}
    assert removal["van gogh ."] < removal["painting"]


def test_no_candidates_are_the_plain_words_of_the_kind(small_tower, tokenizer):
    told = []
    found = find_target(
        small_tower, tokenizer, "toy", "object", settings=PAPER, progress=lambda *step: told.append(step)
    )
    wanted = [word for word in PLAIN_WORDS["object"] if word != "toy"]
    assert sorted(one.target for one in found.candidates) == sorted(wanted)
    assert told == [(number, len(wanted)) for number in range(1, len(wanted) + 1)]


def test_the_settings_own_lambda_counts_nothing(small_tower, tokenizer, ranking):
    for settings in (AUTO, dataclasses.replace(GUARDED, lam=77.0)):
        assert find_target(small_tower, tokenizer, "van gogh", "style", WORDS, settings) == ranking


@pytest.mark.parametrize(
    ("source", "kind", "candidates", "message"),
    [
        ("van gogh", "style", ("painting", " Van Gogh"), "source and the target are both"),
        ("van gogh", "style", ("painting", "  "), "target of 'van gogh' is empty"),
        ("", "style", (), "source concept is empty"),
        ("van gogh", "mood", (), "Unknown kind"),
        ("van gogh", "custom", ("dog",), "needs its own caption templates"),
        ("van gogh", "style", ("dog " * 80,), "cut off"),
    ],
)
def test_refusals(small_tower, tokenizer, source, kind, candidates, message):
    with pytest.raises(PromptError, match=message):
        find_target(small_tower, tokenizer, source, kind, candidates)


def test_the_picture_has_room_for_many_names(ranking):
    many = dataclasses.replace(ranking, candidates=ranking.candidates * 12)
    for one in (ranking, many):
        pixels = draw_targets(one, width=700)
        assert pixels.shape[1:] == (700, 3) and pixels.std() > 10
        # The names stay inside: no ink at the edges.
        assert (pixels[:3] == 255).all() and (pixels[-3:] == 255).all() and (pixels[:, -3:] == 255).all()
