"""Words that a text encoder does not know, and edits of them."""

import dataclasses
import json

import pytest
import torch
from diff_quickfix.output.json_records import from_json, to_json
from diff_quickfix.quickfix import (
    AUTO,
    GUARDED,
    PAPER,
    ConceptEdit,
    EditReport,
    Ledger,
    TextTower,
    compute_edit,
    find_lambda,
    find_target,
    load_edit,
    measure_edit,
    save_edit,
)
from diff_quickfix.quickfix.encoder.tower import TOKENS
from diff_quickfix.quickfix.measure.charts import draw_report
from diff_quickfix.text.prompts import PromptError
from hypothesis import given
from hypothesis import strategies as st

KNOWN = ConceptEdit("van gogh", "painting")
NONE = ConceptEdit("snoopy", "dog", kind="object")
SOURCE, TARGET = ConceptEdit("snoopy", "cat", kind="object"), ConceptEdit("monet", "dog")
SAME = ConceptEdit("lion", "tiger", kind="object")


@pytest.fixture(scope="module")
def ignorant(small_tower, tokenizer):
    """A text encoder that never read "snoopy" and "dog", and takes a lion for a tiger."""
    table = small_tower.weights[TOKENS].clone()
    for word in ("snoopy", "dog"):
        table[list(tokenizer.word_ids(word))] = 0
    table[list(tokenizer.word_ids("lion"))] = table[list(tokenizer.word_ids("tiger"))]
    return dataclasses.replace(small_tower, weights={**small_tower.weights, TOKENS: table})


@given(st.lists(st.integers(0, 3), min_size=40, max_size=60), st.integers(0, 2**31), st.booleans())
def test_a_token_is_untrained_when_its_row_is_empty_or_that_of_many(rows, seed, half):
    """Oracle: each row compared with each other one. Rows of some groups differ in their last column alone."""
    kinds = torch.randn(4, 12, generator=torch.Generator().manual_seed(seed))
    kinds[1] = kinds[0]
    kinds[1, -1] += 1
    kinds[3] = 0
    table = kinds[rows].to(torch.float16 if half else torch.float32)
    tower = TextTower.from_weights({TOKENS: table}, heads=1, num_layers=1)
    alike = (table[:, None] == table[None]).all(-1).sum(1)
    wanted = {token for token, row in enumerate(table) if alike[token] > 8 or not row.any()}
    asked = range(0, len(rows), 2)
    assert tower.untrained_tokens(asked) == wanted & set(asked)
    assert tower.untrained_tokens([]) == frozenset() == tower.untrained_tokens([-1, 10_000])


def test_a_large_vocabulary_is_sampled():
    """As in Shapes, where all tokens that were never trained have one embedding. Small groups are not looked for."""
    table = torch.randn(9000, 4, generator=torch.Generator().manual_seed(3))
    table[3000:] = table[3000]
    table[5:8] = table[4]
    tower = TextTower.from_weights({TOKENS: table}, heads=1, num_layers=1)
    assert tower.untrained_tokens([0, 4, 5, 2999, 3000, 3001, 8999]) == {3000, 3001, 8999}


def test_a_token_that_begins_as_the_copy_of_another_is_known():
    """As tokens that are added for a new name do."""
    table = torch.randn(50, 12)
    table[49] = table[7]
    assert TextTower.from_weights({TOKENS: table}, heads=1, num_layers=1).untrained_tokens(range(50)) == frozenset()


@pytest.mark.parametrize("settings", [PAPER, GUARDED, AUTO], ids=["paper", "guarded", "auto"])
@pytest.mark.parametrize(
    ("concepts", "told"),
    [
        ((NONE,), ("does not know 'snoopy': there is nothing to edit", "does not know 'dog'")),
        ((SOURCE,), ("does not know 'snoopy': there is nothing to edit",)),
        ((TARGET,), ("does not know 'dog': the concept becomes a word without meaning",)),
        ((SAME,), ("does not tell 'lion' from 'tiger': there is nothing to edit",)),
        ((NONE, TARGET), ("does not know 'snoopy'", "does not know 'dog'")),
        ((ConceptEdit("a portrait of snoopy", "painting"),), ("does not know 'a portrait of snoopy'",)),
    ],
)
def test_an_edit_of_what_the_model_does_not_know_says_so_and_has_no_efficacy(
    ignorant, tokenizer, settings, concepts, told
):
    report = compute_edit(ignorant, tokenizer, concepts, settings).report
    assert report.verdict.startswith("unknown: this model") and all(part in report.verdict for part in told)
    assert report.efficacy is None and report.generality == () and report.neighbours is None
    assert "efficacy" not in report.text() and "100" not in report.verdict
    plain = report.as_dict()
    assert plain["efficacy"] is None and plain["verdict"] == report.verdict
    assert draw_report(report).shape[1] == 900
    again = from_json(EditReport, json.loads(json.dumps(to_json(report))), "report")
    assert again == report


@pytest.mark.parametrize("stranger", [NONE, SOURCE, TARGET])
def test_one_of_several_concepts_is_named_and_the_others_are_measured(ignorant, tokenizer, stranger):
    alone = compute_edit(ignorant, tokenizer, [KNOWN], GUARDED).report
    both = compute_edit(ignorant, tokenizer, [KNOWN, stranger], GUARDED).report
    assert both.verdict.startswith("weak: this model does not know") and both.unknown.known == 1
    assert both.efficacy == pytest.approx(alone.efficacy, abs=0.2)
    assert [kind for kind, _ in both.generality] == ["style"]
    assert alone.unknown is None and "know" not in alone.verdict


def test_ledgers_files_and_other_models_say_the_same(ignorant, small_tower, tokenizer, tmp_path):
    edit = compute_edit(ignorant, tokenizer, [NONE], GUARDED)
    assert Ledger.of_edit(ignorant, tokenizer, edit).solve().report.verdict == edit.report.verdict
    both = Ledger.of(ignorant, tokenizer, [KNOWN, NONE], GUARDED)
    assert both.drop("van gogh").solve().report.efficacy is None
    assert both.drop("snoopy").solve().report.unknown is None
    save_edit(edit, tmp_path / "nothing.safetensors")
    loaded = load_edit(tmp_path / "nothing.safetensors")
    assert loaded.report == edit.report
    # An encoder that knows the words is not told that it does not.
    assert measure_edit(small_tower, tokenizer, loaded).unknown is None


def test_many_concepts_are_summed_up(ignorant, tokenizer):
    strangers = [ConceptEdit(f"snoopy {number}", "cat", kind="object") for number in range(70)]
    report = compute_edit(ignorant, tokenizer, strangers, PAPER).report
    assert len(report.unknown.sources) == 20 and report.unknown.known == 0
    assert "'snoopy 2', ..." in report.verdict and len(report.verdict) < 300


def test_a_search_for_a_target_or_a_lambda_names_what_is_not_known(ignorant, tokenizer):
    with pytest.raises(PromptError, match="does not know 'snoopy': there is nothing to replace"):
        find_target(ignorant, tokenizer, "snoopy", "object")
    with pytest.raises(PromptError, match="knows none of the candidates: 'dog'"):
        find_target(ignorant, tokenizer, "cat", "object", ["dog", "snoopy"])
    ranking = find_target(ignorant, tokenizer, "cat", "object", ["dog", "animal", "toy"])
    assert {one.target for one in ranking.candidates} == {"animal", "toy"} and ranking.unknown == ("dog",)
    assert "not known to this model: 'dog'" in ranking.text() and ranking.as_dict()["unknown"] == ["dog"]
    with pytest.raises(PromptError, match="does not know 'snoopy' or its target 'dog': no lambda"):
        find_lambda(ignorant, tokenizer, [NONE])
    assert find_lambda(ignorant, tokenizer, [KNOWN, NONE]).best > 0
