"""The rule that keeps saved workflows working names every change that would break one, and no other."""

import copy

import object_info
import pytest
from hypothesis import given
from hypothesis import strategies as st

NUMBER = {"name": "layer", "type": "INT", "required": True, "default": 0, "min": 0, "max": 63}
CHOICE = {"name": "kind", "type": "COMBO", "required": True, "default": "style", "options": ["style", "object"]}
SOCKET = {"name": "clip", "type": "CLIP", "required": True}
EXTRA = {"name": "preserve", "type": "STRING", "required": False, "default": ""}
NODE = {"inputs": [SOCKET, NUMBER, CHOICE, EXTRA], "outputs": ["CLIP", "STRING"]}

APPENDED = st.lists(
    st.sampled_from(
        [
            {"name": "a", "type": "INT", "required": False, "default": 1, "min": 0, "max": 2},
            {"name": "b", "type": "CLIP", "required": False},
            {"name": "c", "type": "COMBO", "required": False, "default": "x", "options": ["x"]},
        ]
    )
)


def changed(**places):
    """NODE with other values: input_place={key: value}."""
    node = copy.deepcopy(NODE)
    for place, values in places.items():
        node["inputs"][int(place.removeprefix("input_"))] |= values
    return node


@given(inputs=APPENDED, outputs=st.lists(st.sampled_from(["IMAGE", "list of STRING"])), others=st.sets(st.text("xyz")))
def test_whatever_is_appended_breaks_nothing(inputs, outputs, others):
    grown = {"inputs": [*NODE["inputs"], *inputs], "outputs": [*NODE["outputs"], *outputs]}
    assert object_info.breaks({"Node": NODE}, {**dict.fromkeys(others, NODE), "Node": grown}) == []


@pytest.mark.parametrize(
    "now",
    [
        changed(input_1={"default": 5, "max": 100, "min": -1}),
        changed(input_2={"options": ["fact", "object", "style"], "default": "fact"}),
        changed(input_0={"required": False}),
        NODE,
    ],
    ids=["a wider range and another default of a required input", "more options", "a required input", "nothing"],
)
def test_other_changes_that_are_allowed(now):
    assert object_info.breaks({"Node": NODE}, {"Node": now}) == []


BROKEN = {
    "Node is gone": {},
    "input 1 was 'layer', now 'depth'": {"Node": changed(input_1={"name": "depth"})},
    "input 0 was 'clip', now 'layer'": {"Node": {**NODE, "inputs": [NUMBER, SOCKET, CHOICE, EXTRA]}},
    "input 3 was 'preserve', now gone": {"Node": {**NODE, "inputs": NODE["inputs"][:3]}},
    "input 1 was 'layer', now 'new'": {"Node": {**NODE, "inputs": [SOCKET, {**EXTRA, "name": "new"}, NUMBER, CHOICE]}},
    "input 'layer' was of type INT, now FLOAT": {"Node": changed(input_1={"type": "FLOAT"})},
    "input 'preserve' was optional, now required": {"Node": changed(input_3={"required": True})},
    "input 'preserve' had the default ''": {"Node": changed(input_3={"default": "a"})},
    "no longer offers 'object'": {"Node": changed(input_2={"options": ["style", "fact"]})},
    "took 0 to 63, now 1 to 63": {"Node": changed(input_1={"min": 1})},
    "took 0 to 63, now 0 to 62": {"Node": changed(input_1={"max": 62})},
    "the new input 'new' is required": {
        "Node": {**NODE, "inputs": [*NODE["inputs"], {**EXTRA, "name": "new", "required": True}]}
    },
    "the new input 'new' has no default": {
        "Node": {**NODE, "inputs": [*NODE["inputs"], {"name": "new", "type": "INT", "required": False}]}
    },
    "output 0 was CLIP, now STRING": {"Node": {**NODE, "outputs": ["STRING"]}},
    "output 1 was STRING, now gone": {"Node": {**NODE, "outputs": ["CLIP"]}},
    "output 1 was STRING, now list of STRING": {"Node": {**NODE, "outputs": ["CLIP", "list of STRING"]}},
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_change_that_breaks_a_workflow_is_named(said):
    assert any(said in reason for reason in object_info.breaks({"Node": NODE}, BROKEN[said]))
    assert object_info.breaks({"Node": NODE}, {"Node": NODE}) == []


def test_a_range_that_was_open_may_not_be_closed():
    node = {"inputs": [{"name": "x", "type": "FLOAT", "required": True, "default": 0.0}], "outputs": []}
    closed = copy.deepcopy(node)
    closed["inputs"][0]["max"] = 1.0
    assert object_info.breaks({"Node": node}, {"Node": closed})
    assert not object_info.breaks({"Node": closed}, {"Node": node})
