"""The plan of a sweep: what identifies it, how it grows, and what is refused before any work."""

import json

import pytest
from diff_quickfix.sweeps.plan import SweepError, SweepPlan, read_prompts, seed_blocks
from hypothesis import given
from hypothesis import strategies as st
from made_up_sweeps import PROMPTS, made_up_plan


def test_a_plan_reads_back_as_it_was_written():
    plan = made_up_plan(settings={"steps": 3, "kinds": ("a", "b"), "noise": None, "where": {"k": 1.5}})
    assert SweepPlan.parsed(plan.text(), "x") == plan
    assert plan.settings["kinds"] == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [{"tracer": "other"}, {"settings": {"steps": 4}}, {"identity": {"text encoder": "b"}}, {"version": "9"}],
)
def test_whatever_changes_a_score_changes_the_hash_and_is_named(change):
    plan, other = made_up_plan(), made_up_plan(**change)
    assert plan.hash != other.hash
    with pytest.raises(SweepError, match=next(iter(change)).replace("identity", "model")):
        plan.require_same(other, "here")


def test_what_does_not_change_a_score_does_not_change_the_hash():
    plan = made_up_plan()
    assert plan.hash == made_up_plan(PROMPTS[:1], seeds=(7,), model="elsewhere").hash
    assert plan.hash == made_up_plan(settings=json.loads('{"steps": 3}')).hash


def test_every_run_is_in_one_shard():
    plan = made_up_plan(seeds=(5, 6, 7), block=2)
    runs = [(shard.prompt, seed) for shard in plan.shards() for seed in shard.seeds]
    assert sorted(runs) == sorted((prompt, seed) for prompt in PROMPTS for seed in (5, 6, 7))
    names = [shard.name for shard in plan.shards()]
    assert len(set(names)) == len(names) == 16


@given(
    st.sets(st.integers(0, 9), min_size=1),
    st.sets(st.integers(0, 9), min_size=1),
    st.integers(1, 4),
    st.integers(1, 4),
    st.sets(st.sampled_from(PROMPTS), min_size=1),
)
def test_a_longer_plan_has_all_shards_of_the_shorter_one_and_every_run_once(seeds, more, block, other, prompts):
    plan = made_up_plan(sorted(prompts), sorted(seeds), block)
    longer = plan.extended(PROMPTS, seed_blocks(sorted(more), other))
    assert {shard.name for shard in plan.shards()} <= {shard.name for shard in longer.shards()}
    runs = [(shard.prompt, seed) for shard in longer.shards() for seed in shard.seeds]
    assert len(runs) == len(set(runs)) == len(PROMPTS) * len(seeds | more)
    assert longer.extended(PROMPTS, seed_blocks(sorted(more), other)) == longer


def test_plans_merge_unless_runs_would_count_twice():
    one, other = made_up_plan(PROMPTS[:3], (0, 1)), made_up_plan(PROMPTS[2:], (2, 3))
    assert set(one.merged(other).prompts) == set(PROMPTS)
    assert one.merged(other).seeds == ((0, 1), (2, 3))
    with pytest.raises(SweepError, match="overlap"):
        one.merged(made_up_plan(seeds=(1, 2)))
    with pytest.raises(SweepError, match="settings: steps"):
        one.merged(made_up_plan(settings={"steps": 9}))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"prompts": ()}, "at least one prompt"),
        ({"seeds": ()}, "at least one prompt and one seed"),
        ({"prompts": ("a house",)}, "Found 0 subjects"),
        ({"prompts": ("a [house] by [x]",)}, "Found 2 subjects"),
        ({"prompts": ("a [[house]",)}, "exactly one"),
        ({"prompts": ("a [ ] house",)}, "Found 0"),
        ({"prompts": (PROMPTS[0], PROMPTS[0])}, "stands twice"),
        ({"seeds": (1, 2, 1)}, "seed 1 stands twice"),
        ({"seeds": (-1,)}, "from 0"),
        ({"settings": {"a": float("nan")}}, "JSON"),
        ({"settings": {"a": {1}}}, "JSON"),
        ({"block": 0}, "at least one seed"),
    ],
)
def test_what_cannot_be_swept_is_refused(wrong, said):
    with pytest.raises(SweepError, match=said):
        made_up_plan(**wrong)


@pytest.mark.parametrize(
    "name", ["tracer", "model", "settings", "identity", "prompts", "seeds", "version", "hash", "schema"]
)
@pytest.mark.parametrize("value", [None, 3, "x", [3], {"a": 1}])
def test_a_damaged_plan_is_refused(name, value):
    fields = json.loads(made_up_plan().text())
    if (name, value) in (("model", "x"),):
        return assert_where_a_model_lies_may_be_changed(fields)
    with pytest.raises(SweepError, match="x is no plan"):
        SweepPlan.parsed(json.dumps({**fields, name: value}), "x")


def assert_where_a_model_lies_may_be_changed(fields):
    assert SweepPlan.parsed(json.dumps({**fields, "model": "x"}), "x").model == "x"


def test_a_newer_plan_is_told_as_such():
    fields = json.loads(made_up_plan().text())
    with pytest.raises(SweepError, match="newer version"):
        SweepPlan.parsed(json.dumps({**fields, "schema": 2}), "x")
    for text in ("", "[]", "[" * 100_000):
        with pytest.raises(SweepError, match="no plan"):
            SweepPlan.parsed(text, "x")


def test_prompts_are_lines():
    assert read_prompts("# mine\n\n a [b]  \r\nc [d]\n#e [f]\n") == ("a [b]", "c [d]")
