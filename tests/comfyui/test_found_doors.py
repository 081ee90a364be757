"""What "Locate Causal State" hands on: the doors at a traced site of an image model, and the weights of taps."""

import dataclasses

import pytest
from door_models import present
from noise_traces import make
from test_doors import built, family_for, shapes_of
from traced_clips import clip_named, trace_states

__all__ = ["trace_states"]

# Of these no site can be traced.
UNTRACED = {"pixart"}
WITH_DOORS = ("cross_attn", "cross_context", "entrance")


@pytest.fixture(params=[name for name in present() if name not in UNTRACED])
def family(request):
    return request.param


def sites_of(name):
    from diff_quickfix.families.transformer import image_sites

    return image_sites(built(name).diffusion_model)


def test_patterns_choose_the_doors_of_the_site_and_no_others(family):
    """Oracle: the doors whose modules are in the site's own module."""
    from diff_quickfix.families.door import DoorError
    from diff_quickfix.families.site_doors import doors_of_sites

    shapes, known = shapes_of(family), family_for(family)
    paths = {module: path for path, module in built(family).diffusion_model.named_modules()}
    with_doors = 0
    for site in sites_of(family):
        if site.kind not in WITH_DOORS:
            with pytest.raises(DoorError, match=f"{site.name} has no door: "):
                doors_of_sites([site.name])
            continue
        inside = [
            door
            for door in known.doors(shapes)
            if f"{door.name}.".startswith(f"{paths[site.module]}.") and door.kind != "key"
        ]
        found = known.select(shapes, names=doors_of_sites([site.name]))
        assert [door.name for door in found] == [door.name for door in inside] != [], site.name
        with_doors += 1
    assert with_doors


def traced(sites, window=1, planted=(0, 0)):
    trace = make(prompts=8, planted=planted)
    restored = trace.restored[:, :, :, :1].repeat(1, 1, 1, len(sites), 1)
    restored[:, :, :, planted[0]] += 2
    return dataclasses.replace(
        trace,
        component="unet",
        column_axis="step",
        sites=tuple(sites),
        restored=restored,
        settings={"window": window},
    )


def test_the_doors_of_a_window_are_those_of_its_sites(run):
    from diff_quickfix.families.sites import group_name, windows

    line = [site for site in sites_of("sdxl") if site.kind == "cross_attn"]
    groups = windows(line, 2)
    trace = traced([group_name(group) for group in groups], 2, (1, 0))
    *_, report, doors, _ = run("LocateCausalState", trace, "cross_attn").args
    assert len(doors.split(", ")) == 2 and doors in report
    known, shapes = family_for("sdxl"), shapes_of("sdxl")
    singles = [run("LocateCausalState", traced([site.name]), "any").args[5] for site in groups[1]]
    assert {door.name for door in known.select(shapes, names=doors)} == {
        door.name for one in singles for door in known.select(shapes, names=one)
    }
    line = [site for site in sites_of("sd1") if site.kind == "cross_attn"]
    wide = traced([group_name(group) for group in windows(line, 6)], 6)
    assert len(line) == 7
    assert "cannot be told" in run("LocateCausalState", wide, "any").args[5].message


def test_what_has_no_door_stops_what_reads_it(run):
    from comfy_execution.graph_utils import ExecutionBlocker

    *_, report, doors, weights = run("LocateCausalState", traced(["dit.single.3.block"]), "any").args
    assert isinstance(doors, ExecutionBlocker) and isinstance(weights, ExecutionBlocker)
    assert "same maps" in doors.message and doors.message in report and "kind tap" in weights.message
    *_, report, doors, _ = run("LocateCausalState", make(planted=(0, 1)), "any").args
    assert "connect layer to Diff-QuickFix Edit" in doors.message and "door" not in report


def test_found_doors_are_the_ones_that_are_edited(run):
    from small_encoders import objects

    model, clip = objects("wan")
    trace = traced(["dit.cross.0.cross_attn", "dit.cross.1.cross_attn"], planted=(1, 0))
    doors = run("LocateCausalState", trace, "cross_attn").args[5]
    edit = run("EditImageModel", model, clip, "van gogh", "painting", "style", 1.0, "default", doors, "default").args[2]
    assert [update.door.name for update in edit.doors] == ["blocks.1.cross_attn.v"]


@pytest.mark.usefixtures("inference")
@pytest.mark.parametrize(("slot", "wanted"), [(1, "0.000, 3.000, 0.000"), (2, "0.000, 0.000, 3.000")])
def test_the_one_tap_that_is_read_has_all_the_weight(trace_states, run, slot, wanted):
    """Planted: of Flux.2's three taps a painter reads one."""

    def read(entry):
        return entry[0][:, :, 32 * slot : 32 * (slot + 1)]

    trace = trace_states(clip_named("flux2"), read, kind="tap", columns="places", controls=0)
    *_, report, _, weights = run("LocateCausalState", trace, "tap").args
    assert weights == wanted and "3 taps, put back at 'all'" in report
