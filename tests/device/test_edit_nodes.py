"""The editing nodes in a real ComfyUI, with a CLIP on the device in all the states that ComfyUI leaves it in."""

import re

import pytest
import torch
from conditioning import encode
from loading import PROMPT, STATES, has_memory, where, with_lora
from pretended import DEVICE

pytestmark = pytest.mark.usefixtures("inference")
KEY = "clip_l.transformer.text_model.encoder.layers.0.self_attn.out_proj.weight"
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def same_text(found, wanted):
    """Equal but for times, what the edits were computed from, and the last digits of numbers."""
    found, wanted = (re.sub(r"(?m)^(milliseconds|computed from).*\n?", "", text) for text in (found, wanted))
    assert NUMBER.sub("#", found) == NUMBER.sub("#", wanted)
    for one, other in zip(NUMBER.findall(found), NUMBER.findall(wanted), strict=True):
        assert float(one) == pytest.approx(float(other), rel=2e-3, abs=0.011)


def same_edit(found, wanted):
    assert found.up.device.type == "cpu" and type(found.up) is torch.Tensor
    assert (found.delta() - wanted.delta()).norm() <= 1e-4 * wanted.delta().norm()
    same_text(found.report.text(), wanted.report.text())


@pytest.fixture(scope="module")
def on_cpu(nodes, shapes):
    """Edits computed with all on the CPU, by source; each once."""
    known = {}

    def of(source="van gogh"):
        if source not in known:
            values = (source, "painting", "style", "guarded", 0, 0.0, "last subject token and padding", 1.0)
            known[source] = nodes["DiffQuickFix_Edit"].execute(shapes[1], *values).args[1]
        return known[source]

    return of


def applied(clip, edit):
    """A CLIP with an edit, as the editing nodes patch it."""
    edited = clip.clone()
    assert edited.add_patches({KEY: ("diff", (edit.delta(),))}, 1.0)
    return edited


@pytest.fixture
def reach(moved, on_cpu, monkeypatch):
    """A CLIP on the device in one of the states."""

    def run(name):
        state = STATES[name]
        if state.memory is not None:
            has_memory(monkeypatch, state.memory)
        reached = state.reach(moved[1], lambda given: applied(given, on_cpu("claude monet")))
        assert where(reached).keys() == state.devices, "not the state that was meant"
        return reached

    return run


@pytest.mark.parametrize("name", STATES)
def test_an_edit_is_that_of_the_cpu(reach, edit, shapes, on_cpu, name):
    edited, change, _ = edit(reach(name))
    same_edit(change, on_cpu())
    reach_own = (lambda clip, _: clip) if name == "partly unloaded" else STATES[name].reach
    own = reach_own(shapes[1], lambda given: applied(given, on_cpu("claude monet")))
    wanted = encode(applied(own, on_cpu()), PROMPT)
    torch.testing.assert_close(encode(edited, PROMPT), wanted, atol=2e-5, rtol=1e-4)


def test_where_an_edit_is_computed(reach, pack, monkeypatch):
    """Where most of the weights lie, if there is room and fp64; and a whole encoder is never moved."""
    from pack_under_test.nodes.host.editing.text_encoder import open_text_encoder

    def device(clip):
        return open_text_encoder(clip).tower.device.type

    assert device(reach("never used")) == "cpu"
    used = reach("used")
    assert device(used) == DEVICE.type
    has_memory(monkeypatch, 2**29)
    assert device(used) == "cpu", "half a gigabyte is too little"
    has_memory(monkeypatch, 2**40)
    monkeypatch.setattr("pack_under_test.quickfix.encoder.tower._WITH_FP64", ("cpu",))
    assert device(used) == "cpu", "no fp64"


@pytest.mark.parametrize("name", ["used", "never used", "with a LoRA"])
def test_no_node_moves_the_encoder(reach, edit, traffic, name):
    clip = reach(name)
    size = clip.patcher.model_size()
    before = where(clip)
    traffic.up = traffic.down = 0
    edit(clip, preset="paper")
    assert traffic.up < size and traffic.down < size / 4
    assert where(clip) == before


@pytest.mark.parametrize("name", ["used", "with a LoRA, behind an edit", "little memory"])
def test_the_other_nodes_say_what_they_say_on_the_cpu(reach, run, shapes, on_cpu, folders, monkeypatch, pack, name):
    clip, own, edit = reach(name), shapes[1], on_cpu()
    monkeypatch.setattr("pack_under_test.nodes.host.editing.base_weights._ROOM", 0)
    saved = run("SaveEditAsLoRA", edit, "edit", "kohya", 1.0, "fp32").args[0]
    found, wanted = (run("LoadEdit", one, saved, 0.8).args for one in (clip, own))
    same_text(found[2], wanted[2])
    same_edit(found[1], wanted[1])
    changes = "", "claude monet -> painting", "van gogh: 0.5"
    found, wanted = (run("ChangeEdit", one, edit, *changes, 1.0).args for one in (clip, own))
    same_text(found[2], wanted[2])
    same_edit(found[1], wanted[1])
    again = [run("ChangeEdit", one[0], one[1], "van gogh", "", "", 1.0).args for one in (found, wanted)]
    same_edit(again[0][1], again[1][1])
    for found, wanted in zip(
        run("CollateralRadar", clip, edit, 5, "monet\na dog\na red ball\nrembrandt").args,
        run("CollateralRadar", own, edit, 5, "monet\na dog\na red ball\nrembrandt").args,
        strict=True,
    ):
        same_text(found, wanted)


def test_lambda_and_target_are_found_as_on_the_cpu(reach, run, shapes):
    clip, own = reach("with a LoRA on out_proj alone"), shapes[1]
    settings = "guarded", 0, "last subject token and padding"
    found, wanted = (run("FindLambda", one, "van gogh", "painting", "style", *settings).args for one in (clip, own))
    assert found[0] == pytest.approx(wanted[0])
    same_text(found[2], wanted[2])
    asked = "van gogh", "style", *settings, "dog\npainting"
    found, wanted = (run("FindTarget", one, *asked).args for one in (clip, own))
    texts = [(one, other) for one, other in zip(found, wanted, strict=True) if isinstance(one, str)]
    assert texts
    for one, other in texts:
        same_text(one, other)


def test_many_concepts_at_once_on_the_device(reach, run, edit, shapes):
    """More pairs than the keys are wide, from a list."""
    lines = "van gogh -> painting\nclaude monet -> painting\nsnoopy -> dog | kind=object"
    concepts = run("ConceptEditList", lines, "none").args[0]
    clip = reach("used")
    found, wanted = (edit(one, source="", concepts=concepts, preset="auto") for one in (clip, shapes[1]))
    same_edit(found[1], wanted[1])


def merged(clip):
    """A CLIP merged half and half with one that has a LoRA, as "CLIPMergeSimple" merges."""
    both = clip.clone()
    for key, entries in with_lora(clip).get_key_patches().items():
        if not key.endswith(("position_ids", "logit_scale")):
            both.add_patches({key: entries}, 0.5, 0.5)
    return both


@pytest.mark.parametrize("used", [False, True])
def test_a_merged_model_is_edited_as_on_the_cpu(moved, shapes, edit, used):
    clip, own = merged(moved[1]), merged(shapes[1])
    if used:
        encode(clip, PROMPT)
        assert where(clip)["cpu"] > 90, "all weights are patched, and backed up on the CPU"
    found, wanted = edit(clip), edit(own)
    same_edit(found[1], wanted[1])
    torch.testing.assert_close(encode(found[0], PROMPT), encode(wanted[0], PROMPT), atol=5e-5, rtol=1e-4)
