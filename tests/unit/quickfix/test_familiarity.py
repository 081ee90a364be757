"""Names that a model hardly knows: how far they move the text states, beside made-up names."""

import dataclasses
import json
import statistics

import pytest
import torch
from diff_quickfix.output.json_records import from_json, to_json
from diff_quickfix.quickfix import DOORS, ConceptEdit, EditReport, StateTower, compute_edit, find_lambda
from diff_quickfix.quickfix.concepts.built_in import HELD_OUT_TEMPLATES
from diff_quickfix.quickfix.encoder.tower import TOKENS
from diff_quickfix.quickfix.measure.familiarity import MOST, made_up_names, measure_familiarity
from diff_quickfix.text.rows import FILL

NAME = "van gogh"


def states_of(small_tower, tokenizer, table=None):
    """The states of a text tower, with other token embeddings."""
    if table is not None:
        small_tower = dataclasses.replace(small_tower, weights={**small_tower.weights, TOKENS: table})

    def read(ids):
        rows = torch.tensor(ids)
        return small_tower.hidden_states(rows.masked_fill(rows == FILL, tokenizer.pad_token))

    return StateTower.of_prompts(read, tokenizer, [64], small_tower.token_table(), "sdxl", shortens=True)


@pytest.fixture(scope="module")
def states(small_tower, tokenizer):
    return states_of(small_tower, tokenizer)


def told(states, tokenizer, name=NAME):
    ((found, ratio),) = measure_familiarity(states, tokenizer, [ConceptEdit(name, "painting")])
    assert found == name
    return ratio


@pytest.mark.parametrize(("tokens", "words"), [(1, 1), (2, 1), (2, 2), (3, 2), (5, 3)])
def test_made_up_names_have_the_tokens_that_are_asked_for(tokenizer, tokens, words):
    names = made_up_names(tokenizer, tokens, words=words)
    assert len(set(names)) == 6 and names == made_up_names(tokenizer, tokens, words=words)
    for name in names:
        assert len(tokenizer.word_ids(name)) == tokens and len(name.split()) == words


def test_it_is_what_the_formula_says(states, tokenizer):
    """Oracle: captions one by one, each made-up name with the mean of the five others."""
    own = others = 0.0
    for template in HELD_OUT_TEMPLATES["style"][:2]:
        rows = []
        for name in (NAME, *made_up_names(tokenizer, 2, words=2)):
            prompt = tokenizer.tokenize(template.replace("{x}", name))
            first = prompt.ids.index(
                tokenizer.word_ids(name)[-1], len(tokenizer.word_ids(template.split("{x}")[0])) + 2
            )
            rows.append(states.attention_inputs([prompt.ids], 0)[0, first : prompt.eos + 1].flatten().double())
        made = rows[1:]
        own += float((rows[0] - sum(made) / 6).square().sum())
        spread = [(row - sum(other for other in made if other is not row) / 5).square().sum() for row in made]
        others += float(sum(spread) / 6) * (1 + 1 / 6) / (1 + 1 / 5)
    assert told(states, tokenizer) == pytest.approx((own / others) ** 0.5, rel=1e-4)


def test_a_made_up_name_is_about_as_familiar_as_the_made_up_ones(states, tokenizer):
    names = [
        "zevrik mulo",
        "gotan brix",
        "wuzel parn",
        "jimok tasu",
        "hedru vopal",
        "sarkin loje",
        "nuvet grol",
        "bixa",
    ]
    ratios = [told(states, tokenizer, name) for name in names]
    assert 0.8 < statistics.mean(ratios) < 1.25


def test_what_the_encoder_learned_of_a_name_counts(small_tower, tokenizer, states):
    """The same name with embeddings far from all others, and with those that say what the mean of all tokens says."""
    table, ids = small_tower.weights[TOKENS], list(tokenizer.word_ids(NAME))
    known, dull = table.clone(), table.clone()
    known[ids] = 4 * table[ids]
    dull[ids] = table[1000:40000].float().mean(0).to(table.dtype)
    plain = told(states, tokenizer)
    assert told(states_of(small_tower, tokenizer, known), tokenizer) > 1.2 * plain
    ignorant = states_of(small_tower, tokenizer, dull)
    assert told(ignorant, tokenizer) < 1 and told(ignorant, tokenizer) < plain
    report = compute_edit(ignorant, tokenizer, [ConceptEdit(NAME, "painting")], DOORS).report
    assert f"this model hardly knows '{NAME}': it takes made-up names for as much" in report.verdict
    assert report.verdict.split(":")[0] == dataclasses.replace(report, familiarity=()).verdict.split(":")[0]
    assert f"known: '{NAME}' 0." in report.text() and report.as_dict()["familiarity"] == dict(report.familiarity)
    assert from_json(EditReport, json.loads(json.dumps(to_json(report))), "report") == report
    assert "hardly" not in dataclasses.replace(report, familiarity=((NAME, 1.3),)).verdict


def test_made_up_names_that_are_all_alike_to_it_make_any_other_well_known(small_tower, tokenizer):
    """As in Shapes, where all tokens that were never trained have one embedding."""
    table = small_tower.weights[TOKENS].clone()
    mean = table[0].clone()
    for name in made_up_names(tokenizer, 2, words=2):
        table[list(tokenizer.word_ids(name))] = mean
    assert told(states_of(small_tower, tokenizer, table), tokenizer) == MOST


def test_a_name_that_does_not_fit_into_the_captions_is_left_out(states, tokenizer):
    long = ConceptEdit("very " * 74 + "long", "painting", "custom", ("{x}",))
    assert measure_familiarity(states, tokenizer, [long]) == ()


def test_edits_of_a_text_encoder_are_not_measured_by_it(small_tower, tokenizer, states):
    concepts = [ConceptEdit(f"artist {number}", "painting") for number in range(9)]
    assert compute_edit(small_tower, tokenizer, concepts).report.familiarity == ()
    assert len(compute_edit(states, tokenizer, concepts, DOORS).report.familiarity) == 3
    assert find_lambda(states, tokenizer, concepts[:1], DOORS).best > 0
