"""The report's numbers against direct computation."""

import json

import numpy as np
import pytest
import torch
from diff_quickfix.quickfix import (
    EVERYDAY,
    GUARDED,
    HELD_OUT_TEMPLATES,
    PAPER,
    PRESERVED,
    ConceptEdit,
    EditReport,
    EditSettings,
    FinalStates,
    Guarding,
    LambdaCurve,
    LowRank,
    StorageRounding,
    TextTower,
    compute_edit,
    measure_effect,
    measure_final,
    pair_tokens,
    storage_rounding,
)
from diff_quickfix.quickfix.concepts.built_in import FINAL_CAPTIONS
from diff_quickfix.quickfix.measure.charts import draw_curve, draw_report
from diff_quickfix.quickfix.measure.verdict import SENTENCES, Neighbours, Unknown
from diff_quickfix.text.captions import KINDS, PUBLISHED_TEMPLATES
from transformers import CLIPTextConfig, CLIPTextModel

VAN_GOGH = ConceptEdit("van gogh", "painting")


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(7)
    config = CLIPTextConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return TextTower.from_module(CLIPTextModel(config))


@pytest.fixture(scope="module")
def edit(tower, tokenizer):
    return compute_edit(tower, tokenizer, [VAN_GOGH], PAPER)


def test_effect_is_what_the_definitions_say(tower, tokenizer, edit):
    texts = ["", "a red car", "two dogs in a park"]
    update = LowRank(edit.up, edit.down)
    effect = measure_effect(tower, 0, update, tokenizer.tokenize_all(texts))
    weight, drifts, damage = tower.weight(edit.weight_name), [], []
    for prompt in tokenizer.tokenize_all(texts):
        states = tower.attention_states([prompt.ids], 0)
        k = states.inputs[0]
        change = k @ edit.delta().T
        drifts.append(float(change.norm() / states.residual.norm()))
        damage += [float(change[p].norm() / (weight @ k[p]).norm()) for p in range(1, prompt.eos)]
    assert effect.empty_prompt_drift == pytest.approx(drifts[0], rel=1e-3)
    assert effect.drift == pytest.approx(sum(drifts[1:]) / 2, rel=1e-3)
    assert effect.specificity == pytest.approx(1 - sum(damage) / len(damage), rel=1e-3)
    assert [text for text, _ in effect.worst_hit] == sorted(texts[1:], key=lambda text: -drifts[texts.index(text)])


def test_no_update_does_no_harm(tower, tokenizer):
    nothing = LowRank(torch.zeros(64, 0), torch.zeros(0, 64))
    effect = measure_effect(tower, 1, nothing, tokenizer.tokenize_all(EVERYDAY))
    assert effect == (1.0, 0.0, 0.0, ())


def test_a_guarded_edit_does_less_harm(tower, tokenizer, edit):
    guarded = compute_edit(tower, tokenizer, edit.concepts, GUARDED).report
    assert guarded.empty_prompt_drift < 0.3 * edit.report.empty_prompt_drift
    assert guarded.drift < edit.report.drift
    assert guarded.specificity > edit.report.specificity


def test_text_and_json(tower, edit):
    report = edit.report
    weight = tower.weight(edit.weight_name)
    assert report.relative_norm == pytest.approx(float(edit.delta().norm() / weight.norm()), rel=1e-3)
    assert [stage for stage, _ in report.milliseconds] == ["tokenize", "keys", "solve", "report"]
    plain = report.with_storage(weight, edit.delta(), torch.float16).as_dict()
    assert plain == json.loads(json.dumps(plain))
    assert plain["efficacy"] == report.efficacy and plain["storage"]["swallowed"] >= 0
    text = report.text()
    for part in (f"{report.efficacy:.1%}", "291 token pairs", report.worst_hit[0][0], f"rank {report.rank}", "KiB"):
        assert part in text
    assert "storage" not in text
    assert "storage: rounded by" in report.with_storage(weight, edit.delta(), torch.bfloat16).text()


def test_everyday_and_preserved_prompts_are_apart():
    assert len(EVERYDAY) == len(set(EVERYDAY)) >= 40
    assert set(EVERYDAY) & set(PRESERVED) == {""}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_storage_rounding(dtype):
    """Oracle: entries of one, moved by whole steps, by a tenth of a step, and by none."""
    step = torch.finfo(dtype).eps
    weight = torch.ones(4, 4)
    whole, tiny = torch.full((4, 4), 3 * step), torch.full((4, 4), step / 10)
    assert storage_rounding(weight, whole, dtype) == (0.0, 0.0, 1.0)
    assert storage_rounding(weight, tiny, dtype) == (1.0, 1.0, 0.0)
    mixed = torch.zeros(4, 4)
    mixed[0], mixed[1] = 3 * step, step / 10
    error, swallowed, realised = storage_rounding(weight, mixed, dtype)
    assert swallowed == 0.5
    assert realised == pytest.approx(3**2 / (3**2 + 0.1**2), rel=1e-4)
    assert error == pytest.approx(0.1 / (3**2 + 0.1**2) ** 0.5, rel=1e-4)
    assert storage_rounding(weight, tiny, torch.float32) == (0.0, 0.0, 1.0)
    assert storage_rounding(weight, torch.zeros(4, 4), dtype) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("tokens", [9, None])
def test_final_states_are_those_of_the_whole_tower(tower, tokenizer, layer, tokens):
    """Oracle: all layers run twice, with the weight and with the edited weight."""
    edit = compute_edit(tower, tokenizer, [VAN_GOGH], EditSettings(layer=layer))
    texts = ["", "a red car", "two dogs in a park"]
    final = measure_final(tower, layer, LowRank(edit.up, edit.down), tokenizer, texts, tokens)
    ids = torch.tensor([tokenizer.tokenize(text).ids for text in texts])
    edited = {edit.weight_name: tower.weight(edit.weight_name) + edit.delta()}
    before, after = (tower.hidden_states(ids, weights)[:, :tokens].double() for weights in (None, edited))
    drifts = (after - before).flatten(1).norm(dim=1) / before.flatten(1).norm(dim=1)
    cosines = (before * after).sum(-1) / before.norm(dim=-1) / after.norm(dim=-1)
    assert final.empty_prompt_drift == pytest.approx(float(drifts[0]), rel=1e-3)
    assert final.drift == pytest.approx(float(drifts[1:].mean()), rel=1e-3)
    assert final.turn == pytest.approx(1 - float(cosines[1:].mean()), rel=1e-2, abs=1e-6)


def test_final_captions_are_everyday_ones_and_fit():
    assert set(FINAL_CAPTIONS) <= set(EVERYDAY) and "" in FINAL_CAPTIONS


def test_generality_is_efficacy_in_sentences_not_seen(tower, tokenizer, edit):
    """Oracle: the definition, on the held-out captions' own pairs."""
    weight = tower.weight(edit.weight_name)
    pairs = pair_tokens(tokenizer, [("van gogh", "painting", HELD_OUT_TEMPLATES["style"])], PAPER.positions)
    keys = tower.attention_inputs(pairs.ids, 0)
    k, wanted = (keys[where[:, 0], where[:, 1]] for where in (pairs.source, pairs.target))
    asked = (wanted - k) @ weight.T
    left = asked - k @ edit.delta().T
    ((kind, share),) = edit.report.generality
    assert kind == "style" and share == pytest.approx(1 - float(left.norm() / asked.norm()), abs=1e-4)
    assert share < edit.report.efficacy


def test_generality_is_told_for_each_kind_of_concept(tower, tokenizer):
    concepts = [
        VAN_GOGH,
        ConceptEdit("snoopy", "dog", kind="object"),
        ConceptEdit("cezanne", "painting"),
        ConceptEdit("the moon", "a lamp", kind="custom", templates=HELD_OUT_TEMPLATES["custom"]),
    ]
    report = compute_edit(tower, tokenizer, concepts, PAPER).report
    # All held-out captions of the last are its own templates: there is none to measure on.
    assert [kind for kind, _ in report.generality] == ["style", "object"]
    assert "(style)" in report.text() and "(object)" in report.text()
    endless = ConceptEdit("red " * 74, "painting", kind="custom", templates=("{x}",))
    assert compute_edit(tower, tokenizer, [endless], PAPER).report.generality == ()


def test_held_out_templates_are_no_defaults_and_fit_any_concept():
    assert HELD_OUT_TEMPLATES.keys() == set(KINDS)
    for templates in HELD_OUT_TEMPLATES.values():
        assert len(set(templates)) == len(templates) >= 4 and all("{x}" in template for template in templates)
        assert not set(templates) & set(PUBLISHED_TEMPLATES)


def report_of(**changes):
    numbers = {
        "efficacy": 0.9,
        "specificity": 0.95,
        "drift": 0.02,
        "empty_prompt_drift": 0.01,
        "worst_hit": (("a cat", 0.05),),
        "pairs": 4,
        "rank": 4,
        "relative_norm": 0.1,
        "nbytes": 100,
        "generality": (("style", 0.6),),
    }
    return EditReport(**{**numbers, **changes})


@pytest.mark.parametrize(
    ("changes", "verdict", "parts"),
    [
        ({}, "strong", ()),
        ({"storage": StorageRounding(0.1, 0.3, 0.9)}, "strong", ()),
        ({"storage": StorageRounding(0.4, 0.4, 0.7)}, "strong", ()),
        ({"storage": StorageRounding(0.5, 0.5, 0.5)}, "weak", ("50% of the edit survives",)),
        ({"efficacy": 0.6, "storage": StorageRounding(0.5, 0.5, 0.8)}, "weak", ("80% of the edit survives",)),
        ({"drift": 0.3}, "harmful", ("everyday prompts move by 30%", "'a cat'", "raise lambda")),
        ({"drift": 0.3, "worst_hit": ()}, "harmful", ("move by 30%;", "raise lambda")),
        ({"empty_prompt_drift": 0.2}, "harmful", ("empty prompt", "20%", "preserve the empty prompt")),
        ({"drift": 0.3, "efficacy": 0.1}, "harmful", ("move by 30%",)),
        ({"efficacy": 0.3}, "weak", ("only 30% of the way", "lower lambda")),
        ({"efficacy": 0.3, "storage": StorageRounding(0.1, 0.3, 0.9)}, "weak", ("only 30% of the way",)),
        ({"efficacy": 0.3, "guarding": Guarding(70, 0.99)}, "weak", ("hold fewer prompts",)),
        ({"neighbours": Neighbours(10, 1, 0.27, (("monet", 0.6),))}, "strong", ()),
        ({"neighbours": Neighbours(10, 0, 0.3, (("monet", 0.4),))}, "strong", ()),
        ({"neighbours": Neighbours(10, 1, 0.29, (("monet", 0.6),))}, "harmful", ("1 of 10", "'monet'")),
        ({"neighbours": Neighbours(10, 2, 0.2, (("monet", 0.6), ("degas", 0.5)))}, "harmful", ("2 of 10", "'degas'")),
        (
            {"efficacy": None, "unknown": Unknown(("x",), (), (), 0)},
            "unknown",
            ("does not know 'x': there is nothing",),
        ),
        ({"efficacy": None, "unknown": Unknown((), ("y",), (), 0)}, "unknown", ("word without meaning", "spelling")),
        ({"efficacy": None, "unknown": Unknown((), (), (("a", "b"),), 0)}, "unknown", ("not tell 'a' from 'b'",)),
        ({"unknown": Unknown(("x",), (), (), 3)}, "weak", ("does not know 'x'",)),
        ({"unknown": Unknown(("x",), (), (), 3), "drift": 0.3}, "harmful", ("move by 30%",)),
        ({"efficacy": 0.77, "doors": 70}, "weak", ("only 77% of the way",)),
        ({"efficacy": 0.79, "doors": 70}, "strong", ()),
        ({"generality": (("style", 0.2), ("object", 0.1))}, "weak", ("10% of the way (object)", "templates")),
        ({"storage": StorageRounding(0.8, 0.7, 0.2)}, "weak", ("20% of the edit survives", "fp32")),
        ({"efficacy": 0.3, "storage": StorageRounding(0.8, 0.7, 0.2)}, "weak", ("30% of the way", "20% of the edit")),
    ],
)
def test_the_verdict_says_why_and_what_to_do(changes, verdict, parts):
    report = report_of(**changes)
    assert report.verdict.split(":")[0] == verdict
    assert all(part in report.verdict for part in parts)
    assert report.text().startswith(f"verdict: {report.verdict}\n")
    plain = report.as_dict()
    assert plain["verdict"] == report.verdict
    reasons = "; ".join(sentence.format(**values) for sentence, values in plain["findings"])
    assert report.verdict == (f"{verdict}: {reasons}" if reasons else verdict)
    assert {sentence for sentence, _ in plain["findings"]} <= set(SENTENCES)


def test_a_whole_report_in_words_and_as_json(tower, tokenizer):
    report = compute_edit(tower, tokenizer, [VAN_GOGH], GUARDED).report
    full = report.with_final(FinalStates(0.123, 0.0456, 0.0789))
    text, plain = full.text(), full.as_dict()
    for part in ("12.30%", "0.0456", "7.89%", f"at most {report.condition:.1e}"):
        assert part in text
    assert plain["final"] == {"drift": 0.123, "turn": 0.0456, "empty_prompt_drift": 0.0789}
    assert plain["generality"] == dict(report.generality) and plain["guarding"] is None
    assert plain["condition"] == report.condition > 1
    assert "final" not in report.text()


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [400, 901])
def test_reports_are_drawn_as_wide_as_asked(width):
    small = draw_report(report_of(), width=width)
    assert small.dtype == np.uint8 and small.shape[1:] == (width, 3)
    full = report_of(final=FinalStates(0.1, 0.1, 0.1), storage=StorageRounding(0.1, 0.1, 0.9))
    assert draw_report(full, width=width).shape[0] > small.shape[0]


def test_a_longer_bar_is_more_of_its_color():
    def colored(pixels, color):
        return int((np.abs(pixels.astype(int) - color).sum(-1) < 12).sum())

    blue, red = (0x2F, 0x6F, 0x8F), (0xC8, 0x55, 0x3D)
    low, high = (draw_report(report_of(efficacy=share)) for share in (0.55, 0.95))
    assert colored(high, blue) > 1.1 * colored(low, blue)
    few, many = (draw_report(report_of(neighbours=Neighbours(9, 0, 0.1, (("monet", m),)))) for m in (0.1, 0.9))
    assert colored(many, red) > 1.5 * colored(few, red)
    calm, wild = (draw_report(report_of(drift=drift)) for drift in (0.01, 0.09))
    assert colored(wild, red) > 1.5 * colored(calm, red)


def test_strangers_words_are_drawn_as_they_are():
    """Neither mathematics nor line breaks nor length upset a drawing."""
    words = "$\\frac{1}{$ _^ \n" + "x" * 500
    assert draw_report(report_of(worst_hit=((words, 0.2),), drift=0.2), title=words).shape[1] == 900
    curve = LambdaCurve((0.1, 1.0, 10.0), (0.9, 0.8, 0.2), (0.3, 0.05, 0.01), (1e3, 1e2, 1e1), 1)
    for _ in range(2):
        assert draw_curve(curve, width=640, title=words).shape[1:] == (640, 3)


def test_the_knee_is_marked_where_it_is():
    def line(knee):
        curve = LambdaCurve((0.1, 1.0, 10.0), (0.9, 0.8, 0.2), (0.3, 0.05, 0.01), (1e3, 1e2, 1e1), knee)
        pixels = draw_curve(curve).astype(int)
        marked = (np.abs(pixels - (0xD1, 0x00, 0x2F)).sum(-1) < 40).sum(0)
        return int(marked.argmax())

    left, middle, right = (line(knee) for knee in range(3))
    assert left < middle < right
    assert middle - left == pytest.approx(right - middle, abs=2)
