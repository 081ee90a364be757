"""The prompts of a reproduction: each with one subject, none twice, and in the words of the model's own world."""

import re

import pytest
from diff_quickfix.cli.reproduce_arguments import ATTRIBUTES as OF_THE_SHELL
from diff_quickfix.quickfix import ConceptEdit
from diff_quickfix.reproduce.plan import FULL, few_layers
from diff_quickfix.reproduce.prompts import ATTRIBUTES, WORLDS, prompts_for
from diff_quickfix.sweeps.plan import SweepPlan


@pytest.mark.parametrize("model", ["a/folder", *WORLDS])
def test_every_prompt_can_be_swept_and_every_concept_edited(model):
    found = prompts_for(model)
    for prompts in found.attributes.values():
        plan = SweepPlan("made up", model, {}, {}, prompts, ((0,),))
        assert len(plan.prompts) == FULL.prompts
    assert len(found.concepts) >= 10 and len(set(found.others)) == len(found.others) >= 6
    for concept in found.concepts:
        ConceptEdit(concept.source, concept.target, concept.kind)
        assert len(set(concept.captions)) == len(concept.captions) >= 6
        assert all(concept.source in text for text in concept.captions)
        named = re.compile(rf"\b{re.escape(concept.source)}\b")
        assert not [text for text in found.others if named.search(text)], concept.source


@pytest.mark.parametrize("model", WORLDS)
def test_a_miniature_is_asked_in_its_own_words(model):
    found, world = prompts_for(model), WORLDS[model]
    wanted = {"object": world.objects, "style": world.styles, "color": world.colors}
    for attribute, values in wanted.items():
        subjects = [re.search(r"\[(.*)\]", text)[1] for text in found.attributes[attribute]]
        assert set(subjects) <= set(values) and len(set(subjects)) >= 6, attribute
    assert not any(one.published for one in found.concepts) and set(found.attributes) < set(ATTRIBUTES)


def test_the_published_concepts_come_first_and_the_attributes_are_the_papers():
    found = prompts_for("a/folder")
    assert [one.published for one in found.concepts] == [True] * 8 + [False] * 2
    assert (found.concepts[0].source, found.concepts[0].target) == ("van gogh", "painting")
    assert tuple(found.attributes) == ATTRIBUTES == OF_THE_SHELL


def test_few_layers_hold_the_first_and_the_last():
    assert few_layers(12) == [0, 1, 6, 11] and few_layers(1) == [0] and few_layers(2) == [0, 1]
