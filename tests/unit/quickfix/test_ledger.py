"""The ledger: whatever was done before, it is a new one's equal, bit for bit, and compute_edit's."""

import dataclasses

import pytest
import torch
from diff_quickfix.quickfix import (
    AUTO,
    GUARDED,
    PAPER,
    POSITIONS,
    ConceptEdit,
    Ledger,
    LedgerError,
    TextTower,
    TowerError,
    compute_edit,
)
from diff_quickfix.text.prompts import PromptError
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTextConfig, CLIPTextModel

VAN_GOGH, MONET = ConceptEdit("van gogh", "painting"), ConceptEdit("claude monet", "painting", weight=0.3)
SNOOPY = ConceptEdit("snoopy", "dog", "object", weight=2.0)
ALL = (VAN_GOGH, MONET, SNOOPY)


@pytest.fixture(scope="module")
def tower():
    """Wide enough that a held prompt leaves room."""
    torch.manual_seed(3)
    config = CLIPTextConfig(hidden_size=128, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4)
    return TextTower.from_module(CLIPTextModel(config))


def same_bits(one, other):
    left, right = one.sums(), other.sums()
    return all(
        torch.equal(getattr(left, field.name), getattr(right, field.name))
        if isinstance(getattr(left, field.name), torch.Tensor)
        else getattr(left, field.name) == getattr(right, field.name)
        for field in dataclasses.fields(left)
    )


@pytest.mark.parametrize(
    "kind",
    [
        PAPER,
        GUARDED,
        dataclasses.replace(PAPER, layer=1),
        dataclasses.replace(PAPER, published_bias=True),
        dataclasses.replace(PAPER, positions=POSITIONS[0]),
    ],
)
def test_solves_like_compute_edit(small_tower, tokenizer, kind):
    """E8: from sums as from the concepts anew."""
    for concepts in ((VAN_GOGH,), ALL):
        edit = Ledger.of(small_tower, tokenizer, concepts, kind).solve()
        anew = compute_edit(small_tower, tokenizer, concepts, kind)
        error = (edit.delta() - anew.delta()).norm() / anew.delta().norm()
        assert error < (1e-6 if kind.layer == 0 else 1e-5)
        assert edit.report.efficacy == pytest.approx(anew.report.efficacy, abs=1e-4)
        assert (edit.concepts, edit.settings, edit.base) == (anew.concepts, anew.settings, anew.base)


@settings(max_examples=6)
@given(order=st.permutations(range(3)), weight=st.floats(0.01, 100), dropped=st.integers(0, 2))
def test_the_past_leaves_no_trace(small_tower, tokenizer, order, weight, dropped):
    """Undo is exact: any way to the same concepts gives the same bits."""
    anew = Ledger.of(small_tower, tokenizer, ALL, PAPER)
    ledger = Ledger(small_tower, tokenizer, PAPER)
    for number in order:
        ledger = ledger.add(ALL[number])
    assert same_bits(ledger, anew)
    name = ALL[dropped].source
    assert same_bits(ledger.reweight(name, weight).reweight(name, ALL[dropped].weight), anew)
    rest = ledger.drop(f" {name.upper()}")
    assert same_bits(rest, Ledger.of(small_tower, tokenizer, [c for c in ALL if c.source != name], PAPER))
    assert same_bits(rest.add(ALL[dropped]), anew)
    assert torch.equal(rest.add(ALL[dropped]).solve().delta(), ledger.solve().delta())


def test_nothing_is_left_of_what_was_dropped(small_tower, tokenizer):
    ledger = Ledger.of(small_tower, tokenizer, [VAN_GOGH, MONET], PAPER)
    kept = ledger.drop("van gogh").drop("claude monet")
    sums = kept.sums()
    assert kept.concepts == () and not sums.gram.any() and not sums.moment.any() and sums.pairs == 0
    with pytest.raises(PromptError, match="holds no concepts"):
        kept.solve()
    assert len(ledger.concepts) == 2, "a change makes a new ledger"


def test_sums_are_those_of_fp64(small_tower, tokenizer):
    """Two integers hold what fp64 holds."""
    from diff_quickfix.quickfix.stream import encode_pairs, tokenize_pairs

    ledger = Ledger.of(small_tower, tokenizer, [VAN_GOGH], PAPER)
    share = encode_pairs(small_tower, tokenize_pairs(tokenizer, [VAN_GOGH], POSITIONS[1]), PAPER).sums()
    torch.testing.assert_close(ledger.sums().gram, share.gram, rtol=1e-14, atol=1e-17)
    torch.testing.assert_close(ledger.sums().moment, share.moment, rtol=1e-14, atol=1e-17)


def test_other_settings_serve_the_same_sums(small_tower, tokenizer):
    ledger = Ledger.of(small_tower, tokenizer, ALL, PAPER)
    gentle = ledger.solve(dataclasses.replace(GUARDED, lam=10.0))
    anew = compute_edit(small_tower, tokenizer, ALL, dataclasses.replace(GUARDED, lam=10.0))
    torch.testing.assert_close(gentle.delta(), anew.delta(), rtol=1e-3, atol=1e-6)
    with pytest.raises(LedgerError, match="another layer"):
        ledger.solve(dataclasses.replace(PAPER, layer=1))


def test_refusals(small_tower, tokenizer):
    ledger = Ledger.of(small_tower, tokenizer, [VAN_GOGH, SNOOPY], PAPER)
    with pytest.raises(LedgerError, match="no concept 'nemo'; it holds 'van gogh', 'snoopy'"):
        ledger.drop("nemo")
    with pytest.raises(PromptError, match="two targets, 'painting' and 'monet'"):
        ledger.add(ConceptEdit("Van Gogh", "monet"))
    with pytest.raises(PromptError, match="weight of 'snoopy' is 0"):
        ledger.reweight("snoopy", 0)
    with pytest.raises(LedgerError, match="too large"):
        ledger.add(ConceptEdit("nemo", "fish", weight=1e30))
    told = []
    Ledger.of(small_tower, tokenizer, ALL, PAPER, progress=lambda *step: told.append(step))
    assert told == [(1, 3), (2, 3), (3, 3)]


HELD = dataclasses.replace(GUARDED, hold=("",), preserve=(*GUARDED.preserve, "a dog"))


@pytest.mark.parametrize("kind", [PAPER, GUARDED, HELD, dataclasses.replace(PAPER, published_bias=True)])
def test_the_quick_delta_is_that_of_the_edit(tower, tokenizer, kind):
    """Through every choice of built-in prompts that the concepts leave out, in any order."""
    ledger = Ledger.of(tower, tokenizer, ALL, kind)
    for changed in (ledger, ledger.drop("van gogh"), ledger.drop("van gogh").drop("claude monet"), ledger):
        quick, whole = changed.delta(), compute_edit(tower, tokenizer, changed.concepts, kind).delta()
        assert quick.dtype == torch.float32 and (quick - whole).norm() < 1e-5 * whole.norm()
        torch.testing.assert_close(quick, changed.solve().delta(), rtol=1e-4, atol=1e-6)
    assert torch.equal(ledger.delta(), ledger.drop("snoopy").add(SNOOPY).delta()), "undo is exact"


def test_what_is_preserved_is_encoded_once(small_tower, tokenizer, monkeypatch):
    ledger = Ledger.of(small_tower, tokenizer, ALL, GUARDED)
    ledger.delta()
    encoded = []
    inputs = TextTower.attention_inputs
    monkeypatch.setattr(
        TextTower, "attention_inputs", lambda self, ids, *a: (encoded.append(len(ids)), inputs(self, ids, *a))[1]
    )
    ledger.delta()
    ledger.drop("van gogh").delta()
    assert sum(encoded) == 8, "the captions of the dropped concept, and no more"


def test_delta_finds_lambda_as_solve_does(small_tower, tokenizer):
    ledger = Ledger.of(small_tower, tokenizer, ALL, AUTO)
    assert (ledger.delta() - ledger.solve().delta()).norm() < 1e-5 * ledger.delta().norm()
    with pytest.raises(PromptError, match="holds no concepts"):
        Ledger(small_tower, tokenizer).delta()


def test_an_edit_makes_its_ledger_on_a_model_of_its_kind(small_tower, tower, tokenizer):
    edit = compute_edit(small_tower, tokenizer, ALL, GUARDED)
    ledger = Ledger.of_edit(small_tower, tokenizer, edit)
    assert (ledger.concepts, ledger.settings) == (edit.concepts, edit.settings)
    assert (ledger.delta() - edit.delta()).norm() < 1e-5 * edit.delta().norm()
    with pytest.raises(TowerError, match="64 x 64; this text encoder's is 128 x 128"):
        Ledger.of_edit(tower, tokenizer, edit)
