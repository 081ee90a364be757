"""The report's numbers against direct computation."""

import json

import pytest
import torch
from diff_quickfix.quickfix import (
    EVERYDAY,
    GUARDED,
    PAPER,
    PRESERVED,
    ConceptEdit,
    LowRank,
    TextTower,
    compute_edit,
    measure_effect,
    storage_rounding,
)
from transformers import CLIPTextConfig, CLIPTextModel


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(7)
    config = CLIPTextConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return TextTower.from_module(CLIPTextModel(config))


@pytest.fixture(scope="module")
def edit(tower, tokenizer):
    return compute_edit(tower, tokenizer, [ConceptEdit("van gogh", "painting")], PAPER)


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
    assert storage_rounding(weight, whole, dtype) == (0.0, 0.0)
    assert storage_rounding(weight, tiny, dtype) == (1.0, 1.0)
    mixed = torch.zeros(4, 4)
    mixed[0], mixed[1] = 3 * step, step / 10
    error, swallowed = storage_rounding(weight, mixed, dtype)
    assert swallowed == 0.5
    assert error == pytest.approx(0.1 / (3**2 + 0.1**2) ** 0.5, rel=1e-4)
    assert storage_rounding(weight, tiny, torch.float32) == (0.0, 0.0)
    assert storage_rounding(weight, torch.zeros(4, 4), dtype) == (0.0, 0.0)
