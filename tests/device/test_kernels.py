"""Every kernel on a device, with weights on both: the same as on the CPU, and results on the CPU."""

import dataclasses
from functools import cache

import pytest
import torch
from diff_quickfix import (
    ConceptEdit,
    Ledger,
    TextTower,
    compute_edit,
    find_lambda,
    find_target,
    measure_edit,
    preset,
    scan,
)
from diff_quickfix.quickfix import LowRank, measure_final, storage_rounding, weight_hash
from hypothesis import given, settings
from hypothesis import strategies as st
from placed import MIXTURES, on_device, place
from pretended import DEVICE
from transformers import CLIPTextConfig, CLIPTextModel

pytestmark = pytest.mark.newest
CPU = torch.device("cpu")
PAPER, GUARDED, AUTO = map(preset, ("paper", "guarded", "auto"))
# Fewer pairs than the keys are wide are solved as they are, more by their sums.
FEW = dataclasses.replace(GUARDED, positions="last subject token")
SETTINGS = {
    "few": FEW,
    "many": GUARDED,
    "paper": dataclasses.replace(PAPER, published_bias=True),
    "auto": AUTO,
    "held": dataclasses.replace(FEW, hold=("",), lam=0.3),
    "layer 1": dataclasses.replace(GUARDED, layer=1),
}
CONCEPTS = (ConceptEdit("van gogh", "painting"), ConceptEdit("snoopy", "dog", kind="object", weight=2.0))
NAMES = ("claude monet", "a dog", "vincent", "rembrandt", "a red ball")


def module():
    torch.manual_seed(11)
    config = CLIPTextConfig(
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return model


@cache
def own_tower():
    return TextTower.from_module(module())


def tower_on(placing, device=DEVICE):
    return dataclasses.replace(own_tower(), weights=place(own_tower().weights, placing), device=device)


@cache
def own_edit(name):
    from diff_quickfix.text.prompts import PromptTokenizer
    from diff_quickfix.text.vocabulary import clip_tokenizer

    return compute_edit(own_tower(), PromptTokenizer(clip_tokenizer(), pad_token=49407), CONCEPTS, SETTINGS[name])


def close(found, wanted, tolerance=1e-4):
    """Equal up to fp32: floats in nested lists and dicts, relative to the largest of a tensor."""
    if isinstance(wanted, torch.Tensor):
        assert type(found) is torch.Tensor and found.device == CPU, "results are on the CPU"
        assert (found - wanted).norm() <= tolerance * wanted.norm()
    elif isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted.keys() - {"milliseconds"}:
            close(found[key], wanted[key], tolerance)
    elif isinstance(wanted, list | tuple):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            close(one, other, tolerance)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=20 * tolerance, abs=tolerance)
    else:
        assert found == wanted


def same_edit(found, wanted):
    assert {found.up.device, found.down.device} == {CPU}
    close(found.delta(), wanted.delta())
    close(found.report.as_dict(), wanted.report.as_dict())
    assert found.base == wanted.base


@pytest.mark.parametrize("mixture", MIXTURES)
def test_an_edit_and_its_report_are_those_of_the_cpu(tokenizer, mixture):
    tower = tower_on(MIXTURES[mixture])
    name = "many" if mixture.startswith("a") else "few"
    same_edit(compute_edit(tower, tokenizer, CONCEPTS, SETTINGS[name]), own_edit(name))


@pytest.mark.parametrize("name", SETTINGS.keys() - {"few", "many"})
def test_edits_of_all_kinds_are_those_of_the_cpu(tokenizer, name):
    tower = tower_on(MIXTURES["scattered 0"])
    same_edit(compute_edit(tower, tokenizer, CONCEPTS, SETTINGS[name]), own_edit(name))


@settings(max_examples=10)
@given(data=st.data())
def test_any_subset_of_weights_on_either_device_gives_the_same_edit(tokenizer, data):
    names = data.draw(st.sets(st.sampled_from(sorted(own_tower().weights))))
    tower = tower_on(on_device(names), data.draw(st.sampled_from([DEVICE, CPU])))
    same_edit(compute_edit(tower, tokenizer, CONCEPTS, FEW), own_edit("few"))


@pytest.mark.parametrize("name", ["few", "many", "held"])
def test_an_edit_from_the_cpu_is_measured_on_the_device(tokenizer, name):
    tower, edit = tower_on(MIXTURES["scattered 1"]), own_edit(name)
    wanted = measure_edit(own_tower(), tokenizer, edit, 0.7)
    close(measure_edit(tower, tokenizer, edit, 0.7).as_dict(), wanted.as_dict())
    update = LowRank(edit.up, edit.down)
    final = (measure_final(one, 0, update, tokenizer) for one in (tower, own_tower()))
    close(*(one._asdict() for one in final))
    weight = tower.weight(edit.weight_name)
    assert weight.device == DEVICE and weight_hash(weight) == edit.base
    close(
        storage_rounding(weight, edit.delta(), torch.float16)._asdict(),
        storage_rounding(weight.cpu(), edit.delta(), torch.float16)._asdict(),
    )


def test_radar_lambda_and_targets_are_those_of_the_cpu(tokenizer):
    tower, edit = tower_on(MIXTURES["a LoRA on attention and MLPs"]), own_edit("many")
    found, wanted = (scan(one, tokenizer, edit, NAMES) for one in (tower, own_tower()))
    close(found.as_dict(), wanted.as_dict())
    curves = (find_lambda(one, tokenizer, CONCEPTS, GUARDED).as_dict() for one in (tower, own_tower()))
    close(*curves)
    held = dataclasses.replace(FEW, hold=("",))
    rankings = (
        find_target(one, tokenizer, "van gogh", candidates=("painting", "dog"), settings=held)
        for one in (tower, own_tower())
    )
    close(*(ranking.as_dict() for ranking in rankings), tolerance=1e-3)


@pytest.mark.parametrize("name", ["few", "held", "auto"])
def test_a_ledger_stays_on_the_cpu_and_changes_as_there(tokenizer, name):
    def changed(tower):
        ledger = Ledger.of_edit(tower, tokenizer, own_edit(name)).add(ConceptEdit("monet", "painting"))
        return ledger.reweight("van gogh", 0.5).drop("snoopy")

    found, wanted = changed(tower_on(MIXTURES["scattered 2"])), changed(own_tower())
    close(found.delta(), wanted.delta())
    same_edit(found.solve(), wanted.solve())
    for exact in found._sums:
        assert {exact.coarse.device, exact.fine.device} == {CPU}
    assert all(keys.keys.device == CPU for keys in found._guard._keys.values())
    empty = Ledger(tower_on(MIXTURES["all on the device"]), tokenizer).sums()
    assert empty.gram.device == DEVICE and not empty.gram.any()


def test_a_moved_module_computes_where_it_lies_if_there_is_fp64(tokenizer, monkeypatch):
    moved = module().to(DEVICE)
    assert TextTower.from_module(moved).device == CPU, "not every accelerator computes in fp64"
    same_edit(compute_edit(TextTower.from_module(moved), tokenizer, CONCEPTS, FEW), own_edit("few"))
    monkeypatch.setattr("diff_quickfix.quickfix.encoder.tower._WITH_FP64", ("cpu", DEVICE.type))
    tower = TextTower.from_module(moved)
    assert tower.device == DEVICE
    same_edit(compute_edit(tower, tokenizer, CONCEPTS, FEW), own_edit("few"))
    inner = getattr(moved, "text_model", moved)
    inner.embeddings.to("cpu")
    assert TextTower.from_module(moved).device == CPU, "most bytes are the embeddings'"


def test_only_what_is_read_is_copied(tokenizer, traffic):
    """An edit of the first layer on the CPU fetches its weights and the embeddings of its words, and no more."""
    tower = tower_on(MIXTURES["all on the device"], CPU)
    table, layer = (
        sum(w.nbytes for name, w in tower.weights.items() if part in name) for part in ("token_embedding", "layers.0")
    )
    traffic.down = 0
    compute_edit(tower, tokenizer, CONCEPTS, preset("paper"))
    assert traffic.down < table / 4 + 20 * layer
