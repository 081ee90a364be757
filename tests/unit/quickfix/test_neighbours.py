"""Names like the concept: which they are, and how far an edit moves them."""

import dataclasses

import pytest
import torch
from diff_quickfix.quickfix import (
    HELD_OUT_TEMPLATES,
    KNOWN_NAMES,
    PAPER,
    ConceptEdit,
    LowRank,
    compute_edit,
    measure_edit,
)
from diff_quickfix.quickfix.concepts.built_in import ARTISTS, COLORS, NAMES_ALIKE, THINGS
from diff_quickfix.quickfix.encoder.tower import TOKENS
from diff_quickfix.quickfix.measure.neighbours import measure_neighbours, nearest_names
from diff_quickfix.text.subjects import find_subject, naming_any

VAN_GOGH, STAR, RED = (
    ConceptEdit("van gogh", "painting"),
    ConceptEdit("star", "circle", kind="object"),
    ConceptEdit("red", "blue", kind="object"),
)


@pytest.fixture(scope="module")
def few(small_tower, tokenizer):
    """A text encoder that knows five colors and the words of captions alone."""
    known = {token for name in COLORS[:5] for token in tokenizer.word_ids(name)}
    table = small_tower.weights[TOKENS].clone()
    for name in KNOWN_NAMES:
        strange = [token for token in tokenizer.word_ids(name) if token not in known]
        table[strange] = 0
    return dataclasses.replace(small_tower, weights={**small_tower.weights, TOKENS: table})


def test_lists_are_of_names_once_each():
    for names in NAMES_ALIKE:
        assert len(set(names)) == len(names) >= 20
    assert set().union(*NAMES_ALIKE) <= set(KNOWN_NAMES)


@pytest.mark.parametrize("layer", [0, 1])
def test_names_move_as_the_definition_says(few, tokenizer, layer):
    """Oracle: each name in each caption encoded alone, positions found by the subject's place."""
    update = LowRank(torch.randn(64, 3) / 8, torch.linalg.qr(torch.randn(64, 3))[0].T)
    found = measure_neighbours(few, tokenizer, [RED], layer, update)
    names = [name for name in COLORS[:5] if name != "red"]
    weight = few.weight(few.out_proj_name(layer))
    keys = []
    for name in names:
        for template in (text for text in HELD_OUT_TEMPLATES["object"] if " red " not in text):
            prompt = tokenizer.tokenize(template.replace("{x}", name))
            (place,) = find_subject(prompt, name, tokenizer)
            inputs = few.attention_inputs([prompt.ids], layer)[0]
            keys.append(inputs[place[-1] : place[-1] + 8])
    keys = torch.stack(keys).unflatten(0, (len(names), -1))
    for number, name in enumerate(names):
        others = torch.cat((keys[:number], keys[number + 1 :])).mean(0)
        apart = (weight @ (keys[number] - others).flatten(0, 1).T).norm()
        moved = (update.delta() @ keys[number].flatten(0, 1).T).norm() / apart
        assert dict(found.worst)[name] == pytest.approx(float(moved), rel=1e-3)
    shares = [share for _, share in found.worst]
    assert found.names == 4 and found.moved == pytest.approx(sum(shares) / 4)
    assert found.lost == sum(share > 0.5 for share in shares) and shares == sorted(shares, reverse=True)


def test_no_update_moves_no_name_and_twice_the_update_twice_as_far(few, tokenizer):
    edit = compute_edit(few, tokenizer, [RED], PAPER)
    once, twice, none = (measure_edit(few, tokenizer, edit, strength).neighbours.worst for strength in (1.0, 2.0, 0.0))
    assert dict(twice) == pytest.approx({name: 2 * share for name, share in once}, rel=1e-3)
    assert all(share == 0 for _, share in none)


def test_names_are_of_the_concepts_list_else_of_its_kind(small_tower, tokenizer):
    for concept, names in ((VAN_GOGH, ARTISTS), (STAR, THINGS), (RED, COLORS)):
        nearest = nearest_names(small_tower, tokenizer, [concept], [concept])
        assert 3 < len(nearest) <= 24 and set(nearest) <= set(names) and len(set(nearest)) == len(nearest)
        assert not naming_any(nearest, [concept.source], tokenizer)
    stranger = ConceptEdit("r2d2", "robot", kind="object")
    assert set(nearest_names(small_tower, tokenizer, [stranger], [stranger])) <= set(THINGS)


def test_no_name_is_a_neighbour_that_is_edited_or_its_plural(small_tower, tokenizer):
    concepts = [STAR, ConceptEdit("dog", "robot", kind="object"), ConceptEdit("Claude Monet", "painting")]
    names = nearest_names(small_tower, tokenizer, concepts, concepts[:2])
    assert not {"star", "stars", "dog"} & set(names) and names
    assert "Claude Monet" not in nearest_names(small_tower, tokenizer, concepts, concepts[2:])


def test_names_that_the_model_does_not_know_do_not_count(few, small_tower, tokenizer):
    assert measure_neighbours(few, tokenizer, [VAN_GOGH], 0, LowRank(torch.zeros(64, 0), torch.zeros(0, 64))) is None
    known = nearest_names(few, tokenizer, [RED], [RED])
    assert set(known) == set(COLORS[:5]) - {"red"}
    assert len(nearest_names(small_tower, tokenizer, [RED], [RED])) > len(known)


def test_a_name_that_is_preserved_in_such_captions_stays(small_tower, tokenizer):
    concepts = [RED]
    free = compute_edit(small_tower, tokenizer, concepts, dataclasses.replace(PAPER, lam=0.1)).report
    captions = [
        template.replace("{x}", name)
        for name in COLORS
        if name != "red"
        for template in HELD_OUT_TEMPLATES["object"]
        if "red" not in template
    ]
    settings = dataclasses.replace(PAPER, lam=0.1, preserve=tuple(captions), preserve_weight=10.0)
    kept = compute_edit(small_tower, tokenizer, concepts, settings).report
    assert kept.neighbours.moved < 0.5 * free.neighbours.moved
    assert dict(kept.neighbours.worst).keys() <= set(COLORS)


def test_captions_that_name_the_concept_themselves_do_not_count(few, tokenizer):
    """ "two" is a word of "two children play with {x} in a park": an edit of it moves the caption, not the name."""
    two = ConceptEdit("two", "three", kind="object")
    edit = compute_edit(few, tokenizer, [two], PAPER)
    update = LowRank(edit.up, edit.down)
    colors = dataclasses.replace(RED, source="yellow")
    both = measure_neighbours(few, tokenizer, [colors, two], 0, update)
    alone = measure_neighbours(few, tokenizer, [colors], 0, update)
    assert max(share for _, share in both.worst) < max(share for _, share in alone.worst)
    every = [ConceptEdit(word, "thing", kind="object") for word in ("yellow", "two", "red hat", "statue", "favorite")]
    assert measure_neighbours(few, tokenizer, every, 0, update).names == 4
