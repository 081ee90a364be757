"""Doors of diffusers' own models: known by their names, and reached by its LoRA loaders under the names that are
written."""

import functools

import pytest
import torch
from diff_quickfix.families.doors import FAMILIES, DoorError, family_named
from diffusers_models import CASES, build

# ComfyUI has them; diffusers keeps Anima's transformer as Cosmos-Predict2's.
NOT_IN_DIFFUSERS = {"anima", "newbie"}


@functools.cache
def shapes_of(name):
    return {path: tuple(p.shape) for path, p in build(CASES[name], "meta").named_parameters()}


def test_each_family_has_a_model():
    assert {family.name for family in FAMILIES} - NOT_IN_DIFFUSERS == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_model_is_of_its_family_alone(name):
    assert [family.name for family in FAMILIES if family.tree(shapes_of(name))] == [name]


@pytest.mark.parametrize("name", CASES)
def test_doors_are_linear_maps_of_the_model(name):
    family = family_named(name)
    model = build(CASES[name], "meta")
    doors = family.doors(shapes_of(name))
    for door in doors:
        module = model.get_submodule(door.name)
        assert isinstance(module, torch.nn.Linear) and door.name == door.diffusers
        assert (module.out_features, module.in_features) == door.shape
        assert door.bias == (module.bias is not None) and door.rows is None
    assert {door.kind for door in doors} >= set(family.default_kinds) - ({"pooled"} if not family.pooled else set())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.loader])
def test_its_lora_loader_takes_the_written_names(name):
    from diffusers.loaders import lora_pipeline

    case, family = CASES[name], family_named(name)
    model = build(case)
    doors = [door for door in family.doors(shapes_of(name)) if door.reads in ("text", "pooled")]
    state = {}
    for number, door in enumerate(doors):
        rows = family.lora_place(door, "diffusers")
        state[f"{family.lora_name(door, 'diffusers')}.lora_A.weight"] = torch.full((2, door.shape[1]), number + 1.0)
        state[f"{family.lora_name(door, 'diffusers')}.lora_B.weight"] = torch.full((rows.height, 2), number + 1.0)
    read = getattr(lora_pipeline, case.loader).lora_state_dict(dict(state))
    model.load_lora_adapter(read[0] if isinstance(read, tuple) else read, prefix=family.diffusers_prefix.rstrip("."))
    for number, door in enumerate(doors):
        module = model.get_submodule(door.name)
        for part in (module.lora_A, module.lora_B):
            (found,) = part.values()
            assert torch.equal(found.weight, torch.full_like(found.weight, number + 1.0)), door.name
    loaded = sum(hasattr(module, "lora_A") for module in model.modules())
    assert loaded == len(doors)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.loader])
def test_where_it_loads_none_the_naming_is_refused(name):
    family = family_named(name)
    for door in family.doors(shapes_of(name)):
        with pytest.raises(DoorError, match='naming "comfyui"'):
            family.lora_name(door, "diffusers")


def test_parts_of_a_fused_weight_are_put_in_their_rows():
    family = family_named("pixart")
    doors = {door.kind: door for door in family.doors(shapes_of("pixart"))}
    key, value = (family.lora_place(doors[kind], "comfyui") for kind in ("key", "value"))
    assert (key.taken, key.put, key.height) == ((0, 64), (0, 64), 128)
    assert (value.taken, value.put, value.height) == ((0, 64), (64, 128), 128)
    # A caller that knows rows of the door's own weight alone is told, and writes no module of half the height.
    with pytest.raises(DoorError, match="fused weight of 128 rows"):
        family.lora_rows(doors["value"], "comfyui")
