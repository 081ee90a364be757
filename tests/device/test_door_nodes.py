"""Removing a concept from an image model's doors, with MODEL and CLIP on the device as ComfyUI leaves them there."""

import dataclasses
import importlib

import pytest
import torch
from conditioning import encode
from loading import PROMPT, STATES, has_memory, with_lora
from pretended import DEVICE
from runs import conditioning, sample

pytestmark = [pytest.mark.usefixtures("inference", "folders"), pytest.mark.newest]
# What is computed by the device and by the CPU differs by a few digits of fp32.
TOLERANCE = 1e-3


@pytest.fixture
def remove(run):
    def remove(model, clip, strength=1.0, **changes):
        return run(
            "RemoveConcept", model, clip, "van gogh", "painting", "style", strength, **{"breadth": "none", **changes}
        ).args

    return remove


@pytest.fixture(scope="module")
def on_cpu(nodes, shapes):
    """The same with everything on the CPU."""
    with torch.inference_mode():
        return (
            nodes["DiffQuickFix_RemoveConcept"]
            .execute(*shapes[:2], "van gogh", "painting", "style", 1.0, breadth="none")
            .args
        )


def same_edit(found, wanted):
    assert found.up.device.type == found.down.device.type == "cpu"
    assert (found.delta() - wanted.delta()).norm() <= TOLERANCE * wanted.delta().norm()
    assert len(found.doors) == len(wanted.doors) > 0
    for one, other in zip(found.doors, wanted.doors, strict=True):
        assert one.up.device.type == "cpu"
        ours, theirs = (edit.factors(update) for edit, update in ((found, one), (wanted, other)))
        change = theirs.up @ theirs.down
        assert (ours.up @ ours.down - change).norm() <= TOLERANCE * change.norm()


def painted(model, clip):
    return sample(model, conditioning(clip, PROMPT), conditioning(clip, ""), size=8)


@pytest.mark.parametrize("name", ["partly unloaded", "little memory"])
def test_the_map_is_that_of_the_cpu_wherever_the_clip_is(moved, remove, on_cpu, monkeypatch, name):
    state = STATES[name]
    if state.memory is not None:
        has_memory(monkeypatch, state.memory)
    same_edit(remove(moved[0], state.reach(moved[1], lambda given: given))[2], on_cpu[2])


def test_a_lora_of_the_users_is_in_the_states(moved, shapes, remove, on_cpu):
    found, wanted = (remove(one[0], with_lora(one[1]))[2] for one in (moved, shapes))
    same_edit(found, wanted)
    assert (found.delta() - on_cpu[2].delta()).norm() > 0.1 * found.delta().norm()


@pytest.mark.parametrize("way", ["image model", "text encoder"])
def test_a_list_of_names_guards_as_on_the_cpu(pack, moved, shapes, remove, tmp_path, monkeypatch, way):
    import folder_paths

    breadth, gram_cache = (
        importlib.import_module(f"{pack.__name__}.quickfix.{name}") for name in ("breadth", "files.gram_cache")
    )
    whole = breadth.name_list("short-1")
    places = [whole.names.index(name) for name in ("circle", "square", "blue", "yellow")]
    captions = tuple(whole.captions[place] for place in places)
    few = dataclasses.replace(whole, names=tuple(whole.names[i] for i in places), captions=captions, digest="few")
    monkeypatch.setattr(breadth, "name_list", lambda name: few)
    edits = []
    try:
        for place, objects in (("device", moved), ("cpu", shapes)):
            # Neither reads what the other made.
            gram_cache.forget()
            monkeypatch.setattr(folder_paths, "get_user_directory", lambda place=place: str(tmp_path / place))
            edits.append(remove(*objects[:2], way=way, breadth="short")[2])
            assert len(list((tmp_path / place).rglob("*.safetensors"))) == 1
    finally:
        breadth.keep_grams_in(None)
        gram_cache.forget()
    found, wanted = edits
    assert found.report.breadth == wanted.report.breadth and found.report.breadth.captions > 4
    assert found.up.device.type == "cpu"
    assert (found.delta() - wanted.delta()).norm() <= TOLERANCE * wanted.delta().norm()


@pytest.mark.parametrize("share", ["all loaded", "half loaded", "edited before"])
def test_the_doors_are_those_of_the_cpu_wherever_the_model_is(moved, shapes, remove, on_cpu, monkeypatch, share):
    model, clip = moved[:2]
    if share == "half loaded":
        has_memory(monkeypatch, model.model_size() // 2)
    painted(model, clip)
    if share == "edited before":
        painted(remove(model, clip, strength=0.7)[0], clip)
    where = {value.device.type for value in model.model.diffusion_model.parameters()}
    expected = {"cpu", DEVICE.type} if share == "half loaded" else {DEVICE.type}
    assert where == expected, "not the state that was meant"
    edited, _, edit, report = remove(model, clip)
    same_edit(edit, on_cpu[2])
    assert "efficacy" in report
    found, expected_pictures = painted(edited, clip), painted(on_cpu[0], shapes[1])
    torch.testing.assert_close(found.cpu(), expected_pictures.cpu(), atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(painted(model, clip).cpu(), painted(*shapes[:2]).cpu(), atol=2e-2, rtol=1e-2)


def test_a_conditioning_on_the_device_stays_there(moved, remove, run):
    edit = remove(*moved[:2])[2]
    states = encode(moved[1], PROMPT)
    here = run("ApplyToConditioning", [[states.to(DEVICE), {}]], edit, 1.0).args[0][0][0]
    there = run("ApplyToConditioning", [[states.cpu(), {}]], edit, 1.0).args[0][0][0]
    assert here.device.type == DEVICE.type and there.device.type == "cpu"
    torch.testing.assert_close(here.cpu(), there, atol=1e-5, rtol=1e-4)


def test_a_saved_edit_is_that_of_the_cpu(moved, remove, run, on_cpu):
    saved = run("SaveEditAsLoRA", remove(*moved[:2])[2], "edit", "comfyui", 1.0, "fp32").args[0]
    _, edit, report, edited = run("LoadEdit", moved[1], saved, 1.0, model=moved[0]).args
    same_edit(edit, on_cpu[2])
    assert edited.patches and "at 16 doors" in report
