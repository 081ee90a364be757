"""Shapes as the tracer sees it without ComfyUI, and the study's prompts, scores and page."""

import dataclasses

import numpy as np
import pytest
import torch
from diff_quickfix.demo_model.pipeline import load_pipeline
from diff_quickfix.demo_model.scorer import ShapesScorer
from diff_quickfix.demo_model.studies.study import ATTRIBUTES, AttributeScore, Finding, page, plans, study_prompts
from diff_quickfix.demo_model.traced import TracedSampler, make_case
from diff_quickfix.demo_model.worlds.catalog import SHAPES
from diff_quickfix.demo_model.worlds.painting import paint
from diff_quickfix.demo_model.worlds.world import PLAIN, Scene, held_out
from diff_quickfix.text.subjects import PLACES, SubjectError
from diff_quickfix.tracing.results.trace import CausalTrace
from diff_quickfix.tracing.runs.attribution import attribute
from diff_quickfix.tracing.runs.cases import Restoration, encode_rows

PROMPT = "a red circle on grass, in the style of van gogh"


@pytest.fixture(scope="module")
def pipeline():
    return load_pipeline()


@pytest.fixture(scope="module")
def scorer():
    return ShapesScorer()


@pytest.fixture(scope="module")
def sampler(pipeline):
    return TracedSampler(pipeline, steps=2)


def painted(scene, rng):
    return torch.from_numpy(paint(SHAPES, scene, 128, rng)).permute(2, 0, 1).float() / 255


def test_the_sampler_paints_what_the_pipeline_paints(pipeline, sampler):
    latents = sampler(pipeline.encode([PROMPT]), 7, [])
    torch.testing.assert_close(sampler.decode(latents), pipeline.paint([PROMPT], [7], steps=2), atol=1e-4, rtol=0)


def test_a_case_hides_the_subject_and_nothing_before_it(pipeline):
    case = make_case(pipeline, PROMPT, "van gogh", draws=2)
    assert case.draws == 3, "one for the controls"
    assert len(case.columns) == len(PLACES) and case.columns[0] == (case.shares[0].corruption.positions[-1],)
    with torch.no_grad():
        clean, hidden = encode_rows(case, {}, [Restoration(None), Restoration(0)])
    torch.testing.assert_close(clean, pipeline.encode([PROMPT])[0], atol=1e-5, rtol=1e-4)
    changed = (clean - hidden).abs().amax(-1) > 1e-4
    start = case.shares[0].corruption.positions[0]
    assert not changed[:start].any() and changed[start:].all()
    with pytest.raises(SubjectError):
        make_case(pipeline, PROMPT, "monet")


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_study_prompts_name_the_attribute_and_are_unseen(pipeline, name):
    chosen = study_prompts(name, 12)
    assert len({text for _, text in chosen}) == 12
    for scene, text in chosen:
        assert held_out(scene)
        assert ATTRIBUTES[name].value(scene) in ATTRIBUTES[name].texts
        make_case(pipeline, text, ATTRIBUTES[name].subject(scene))


@pytest.mark.parametrize("name", ["object", "style", "color", "count"])
def test_the_score_prefers_pictures_of_the_value(scorer, name):
    """On painted scenes: the right value scores above a wrong one in most pictures, and above zero on average."""

    class Undecoded:
        def decode(self, results):
            return results

    kind, chosen = ATTRIBUTES[name], study_prompts(name, 16)
    names = list(kind.texts)
    values = {text: kind.value(scene) for scene, text in chosen}
    wrong = {text: names[(names.index(value) + 1) % len(names)] for text, value in values.items()}
    right, other = (AttributeScore(scorer, Undecoded(), kind, given) for given in (values, wrong))
    rng = np.random.default_rng(0)
    pictures = {text: painted(scene, rng)[None] for scene, text in chosen}
    scores = np.array([[float(s(p, p, text)) for s in (right, other)] for text, p in pictures.items()])
    assert scores[:, 0].mean() > 0.1
    assert (scores[:, 0] > scores[:, 1]).mean() > 0.85


def test_pictures_are_read_alone_and_in_context(scorer):
    """Painted scenes: color, background and style read right nearly always, outlines more often in context."""
    rng = np.random.default_rng(3)
    scenes = [
        Scene(*values)
        for values in (
            ("circle", "red", "on grass", PLAIN),
            ("star", "blue", "on sand", "van gogh"),
            ("square", "green", "at night", PLAIN),
            ("triangle", "yellow", "on stone", "bridget riley"),
            ("ring", "white", "on roses", PLAIN),
        )
    ] * 4
    pictures = torch.stack([painted(scene, rng) for scene in scenes])
    for attribute_ in ("object", "color", "background", "style"):
        truth = [getattr(scene, attribute_) for scene in scenes]
        found = scorer.read_in_context(pictures, scenes, attribute_)
        assert np.mean([a == b for a, b in zip(found, truth, strict=True)]) > 0.9, attribute_
        swapped = scorer.read_in_context(pictures.flip(0), scenes[::-1], attribute_)
        assert swapped == found[::-1]
    assert np.mean([a == s.color for a, s in zip(scorer.read(pictures, "color"), scenes, strict=True)]) > 0.9


def test_gradients_flow_from_a_score_to_every_site(pipeline, scorer, sampler):
    scene = Scene("circle", "red", "on grass", "van gogh")
    score = AttributeScore(scorer, sampler, ATTRIBUTES["style"], {PROMPT: scene.style})
    case = make_case(pipeline, PROMPT, "van gogh", columns=("subject and later",))
    everything = plans(pipeline, 2)
    assert everything["unet-steps"].columns == ("step 1", "step 2")
    text = dataclasses.replace(everything.pop("text"), columns=("subject and later",))
    for plan in (text, *everything.values()):
        found = attribute([case], plan, sampler, score, score_name="style").average_indirect_effect()
        assert found.isfinite().all()
        # What runs before the first cross-attention of the first step has not met the text.
        blind = {"unet.down.0.a0.self_attn", "unet.down.0.r0.resnet"} if plan.columns[0] == "step 1" else set()
        reached = dict(zip(plan.names(), found[:, 0].tolist(), strict=True))
        assert {site for site, effect in reached.items() if effect == 0} == blind & set(reached)
    assert scene.style != PLAIN


def test_the_page_says_what_the_trace_says():
    effects = torch.tensor([0.4, 0.0]).reshape(1, 1, 1, 2, 1) + 0.01 * torch.arange(4).repeat(2).reshape(8, 1, 1, 1, 1)
    effects[:, :, :, 1] = 0
    corrupted, null = torch.zeros(8, 1, 1), 0.001 * torch.tensor([1.0, -1.0, 2.0, -2.0]).expand(8, 1, 1, 4)
    trace = CausalTrace(
        "text",
        ("text.0.self_attn", "text.1.self_attn"),
        ("here",),
        "token",
        tuple("abcdefgh"),
        ("x",) * 8,
        (1,),
        1,
        torch.full((8, 1), 0.5),
        corrupted,
        effects,
        null,
        "s",
    )
    estimate = dataclasses.replace(
        trace,
        prompts=("a", "b"),
        subjects=("x",) * 2,
        clean=trace.clean[:2],
        corrupted=trace.corrupted[:2],
        restored=-trace.restored[:2],
        control=trace.control[:2],
    )
    (line,) = page([Finding("style", trace, estimate)], "text").splitlines()[2:]
    assert "| text.0.self_attn | here | +0.415 (" in line
    assert "| 83% | 1: text.0.self_attn | -1.00 |" in line
