"""Doors of real ComfyUI models: what they read depends on the prompt alone, the prompt enters through nothing else, and
a LoRA's names reach them."""

import functools
import re

import pytest
import torch
from door_models import CASES, TOKENS, build, drawn, present

# Families whose class came with a later ComfyUI than the oldest supported one.
LATER = {"krea2"}
# Families whose diffusers names ComfyUI neither translates nor shares.
UNTRANSLATED = {"anima", "cosmos-predict2", "lumina2", "newbie", "wan", "hunyuan-image"}
SINGLE = ("noise", "time", "guidance", "text", "pooled")


@functools.cache
def built(name):
    return build(CASES[name])


@pytest.fixture(params=present())
def case(request):
    """A family's name; those that this ComfyUI lacks are named in :func:`test_absent`."""
    return request.param


def shapes_of(name):
    return {path: tuple(p.shape) for path, p in built(name).diffusion_model.named_parameters()}


def family_for(name):
    from diff_quickfix.families.doors import family_of

    return family_of(shapes_of(name))


def inputs(name, **seeds):
    """The arguments of a run, each drawn by its own seed."""
    case = CASES[name]
    seed = {one: 1 for one in SINGLE} | seeds
    given = case.arguments(seed["text"])
    if case.pooled[0]:
        vector = drawn(300 + seed["pooled"], 1, case.pooled[1])
        # As ComfyUI makes it out of the conditioning's, with SDXL's sizes behind it.
        given[case.pooled[0]] = (
            built(name).encode_adm(pooled_output=vector, device="cpu") if "y" in case.pooled else vector
        )
    if "guidance" in given:
        given["guidance"] = given["guidance"] + seed["guidance"]
    context = drawn(200 + seed["text"], 1, TOKENS, case.width)
    return (drawn(100 + seed["noise"], 1, *case.latent), torch.tensor([0.2 * seed["time"]])), {
        "context": context,
        **given,
    }


def read_by(name, seeds=None, change=None):
    """What each linear map reads in a run, and what the model gives; ``change`` maps (path, input) to another input."""
    module = built(name).diffusion_model
    found, handles = {}, []

    def hook(path, _module, arguments):
        read = arguments[0] if change is None else change(path, arguments[0])
        found.setdefault(path, []).append(read.detach().clone())
        return (read, *arguments[1:])

    for path, child in module.named_modules():
        weight = getattr(child, "weight", None)
        if isinstance(weight, torch.Tensor) and weight.ndim == 2 and "Embedding" not in type(child).__name__:
            handles.append(child.register_forward_pre_hook(functools.partial(hook, path)))
    arguments, named = inputs(name, **(seeds or {}))
    try:
        with torch.no_grad():
            out = module(*arguments, transformer_options={}, **named)
    finally:
        for handle in handles:
            handle.remove()
    return found, out


def differ(one, other):
    return len(one) != len(other) or any(
        a.shape != b.shape or not torch.allclose(a, b, atol=1e-6, rtol=1e-5) for a, b in zip(one, other, strict=True)
    )


@functools.cache
def dependences(name):
    """For each linear map of a model, which of noise, time, guidance, text and pooled vector change what it reads."""
    base = read_by(name)[0]
    runs = {one: read_by(name, {one: 2})[0] for one in SINGLE}
    return {path: {one for one in SINGLE if differ(base[path], runs[one][path])} for path in base}


def test_absent():
    import comfyui_version

    version = tuple(int(part) for part in comfyui_version.__version__.split("."))
    assert CASES.keys() - present().keys() == (set() if version >= (0, 30) else LATER)


def test_each_family_has_a_model():
    from diff_quickfix.families.doors import FAMILIES

    assert {family.name for family in FAMILIES} == CASES.keys()


def test_a_model_is_of_its_family_alone(case):
    from diff_quickfix.families.doors import FAMILIES

    assert [family.name for family in FAMILIES if family.tree(shapes_of(case))] == [case]


def test_doors_read_the_prompt_alone(case):
    family = family_for(case)
    depend = dependences(case)
    doors = family.doors(shapes_of(case))
    assert {kind for door in doors for kind in [door.kind]} >= set(family.default_kinds) - {"pooled"}
    assert any(door.kind == "pooled" for door in doors) == bool(family.pooled)
    for door in doors:
        assert depend[door.name] == ({"pooled"} if door.kind == "pooled" else {"text"}), door.name


def test_the_prompt_enters_through_the_doors_alone(case):
    """With another prompt, and the doors given what they read with the first, the picture is the first prompt's."""
    family = family_for(case)
    doors = {door.name for door in family.doors(shapes_of(case)) if door.reads in ("text", "pooled")}
    base, wanted = read_by(case)
    other = {"text": 2, "pooled": 2}
    assert differ([read_by(case, other)[1]], [wanted])
    queues = {path: iter(base[path]) for path in doors}
    found = read_by(case, other, lambda path, read: next(queues[path]) if path in doors else read)[1]
    assert torch.equal(found, wanted)


def test_what_is_refused_is_refused_with_the_true_reason(case):
    from diff_quickfix.families.doors import DoorError

    family, shapes = family_for(case), shapes_of(case)
    doors = {door.name for door in family.doors(shapes)}
    reasons = set()
    for path, depends in dependences(case).items():
        if path in doors:
            continue
        with pytest.raises(DoorError, match=r"cannot be edited: .*The doors are"):
            family.door(shapes, path)
        with pytest.raises(DoorError, match="cannot be edited"):
            family.select(shapes, names=path)
        reason = next((one.reason for one in family.refused if re.fullmatch(one.path, path)), None)
        reasons.add(reason)
        known = {"noise": "picture", "time": "time", "guidance": "guidance"}
        truth = next((known[one] for one in SINGLE if one in known and one in depends), "prompt")
        assert {"door": "prompt", "before": "prompt", None: truth}.get(reason, reason) == truth, (path, reason, depends)
    assert "picture" in reasons


def test_the_front_makes_what_the_first_door_reads(case):
    family, module = family_for(case), built(case).diffusion_model
    read = read_by(case)[0]
    _, named = inputs(case)
    for reads in {door.reads for door in family.doors(shapes_of(case))}:
        door = next(door for door in family.doors(shapes_of(case)) if door.reads == reads)
        given = drawn(301, 1, CASES[case].pooled[1]) if reads == "pooled" else named["context"]
        # As a conditioning holds them.
        extras = {name: value.flatten() for name, value in named.items() if name.startswith("t5xxl")}
        with torch.no_grad():
            states = family.front(module, given, extras, reads)
        assert states.shape[-1] == door.width
        fed = read[door.name][0].reshape(-1, door.shape[1])[:, slice(*(door.columns or (None,)))]
        assert torch.allclose(states.reshape(-1, door.width), fed, atol=1e-6, rtol=1e-6), door.name


def test_an_edit_of_the_doors_is_an_edit_of_what_they_read(case):
    """W + W X at all doors of the prompt's states gives the picture that states + X states give."""
    family, module = family_for(case), built(case).diffusion_model
    every = family.doors(shapes_of(case))
    doors = {door.name: door for door in every if door.reads in ("text", "pooled")}
    # Low-rank maps, up @ down, as an edit's are.
    maps = {
        reads: (drawn(7, width, 2), drawn(8, 2, width) / width)
        for reads, width in {(door.reads, door.width) for door in doors.values()}
    }

    def mapped(path, read):
        if path not in doors:
            return read
        door, read = doors[path], read.clone()
        columns = slice(*(door.columns or (None,)))
        read[..., columns] = read[..., columns] + read[..., columns] @ maps[door.reads][1].T @ maps[door.reads][0].T
        return read

    wanted = read_by(case, change=mapped)[1]
    kept = {}
    with torch.no_grad():
        for door in (one for one in every if one.reads in ("text", "pooled")):
            weight = module.get_parameter(door.weight)
            kept.setdefault(door.weight, weight.clone())
            place = slice(*(door.rows or (None,))), slice(*(door.columns or (None,)))
            weight[place] += kept[door.weight][place] @ maps[door.reads][0] @ maps[door.reads][1]
    try:
        found = read_by(case)[1]
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                module.get_parameter(name).copy_(weight)
    assert differ([wanted], [read_by(case)[1]])
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_lora_names_reach_the_doors(case):
    import comfy.lora

    family = family_for(case)
    known = comfy.lora.model_lora_keys_unet(built(case), {})
    translated = set()
    for door in family.doors(shapes_of(case)):
        for naming in ("kohya", "comfyui"):
            assert known[family.lora_name(door, naming)] == f"diffusion_model.{door.weight}"
            rows = family.lora_place(door, naming)
            assert rows.put == rows.taken == (door.rows or (0, door.shape[0])) and rows.height == door.shape[0]
        # diffusers' names, as ComfyUI's own tables translate them; all of the families where both have the module.
        for name in (f"lora_unet_{door.diffusers}".replace(".", "_"), f"transformer.{door.diffusers}"):
            if door.diffusers and name in known:
                weight, *part = (known[name],) if isinstance(known[name], str) else known[name]
                assert weight == f"diffusion_model.{door.weight}"
                assert (0, *(door.rows or (0, 0))) == ((0, part[0][1], sum(part[0][1:])) if part else (0, 0, 0))
                translated.add(door.kind)
    assert translated == (set() if case in UNTRANSLATED else {door.kind for door in family.doors(shapes_of(case))})
