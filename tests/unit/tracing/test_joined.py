"""Traces joined over prompts and seeds."""

import dataclasses
import itertools

import pytest
import torch
from diff_quickfix.tracing.results.trace import TENSORS, CausalTrace, TraceError
from hypothesis import given
from hypothesis import strategies as st
from noise_traces import make


def part(trace, prompts, seeds):
    """Some prompts and seeds of a trace."""
    scores = {name: getattr(trace, name)[list(prompts)][:, list(seeds)] for name in TENSORS}
    texts, subjects = ([getattr(trace, name)[p] for p in prompts] for name in ("prompts", "subjects"))
    return dataclasses.replace(
        trace, prompts=tuple(texts), subjects=tuple(subjects), seeds=tuple(trace.seeds[s] for s in seeds), **scores
    )


@given(cut=st.integers(1, 5), block=st.integers(1, 3), order=st.randoms())
def test_parts_joined_are_the_whole(cut, block, order):
    whole = make(prompts=6, seeds=3)
    rows = [range(cut), range(cut, 6)]
    parts = [part(whole, row, range(s, min(3, s + block))) for row in rows for s in range(0, 3, block)]
    back = CausalTrace.joined(parts)
    assert (back.prompts, back.subjects, back.seeds) == (whole.prompts, whole.subjects, whole.seeds)
    for name in TENSORS:
        assert torch.equal(getattr(back, name), getattr(whole, name))
    assert back.settings == whole.settings and back.score == whole.score
    order.shuffle(parts)
    mixed = CausalTrace.joined(parts)
    for p, s in itertools.product(range(6), range(3)):
        place = mixed.prompts.index(whole.prompts[p]), mixed.seeds.index(whole.seeds[s])
        assert torch.equal(mixed.restored[place], whole.restored[p, s])


def test_what_was_probed_stays_so():
    """With LocoGen's probe a score that falls is an effect; joined as restored, its sign would turn."""
    whole = dataclasses.replace(make(prompts=3), probe="other text")
    back = CausalTrace.joined([part(whole, [row], range(len(whole.seeds))) for row in range(3)])
    assert back.probe == whole.probe
    torch.testing.assert_close(back.indirect_effects(), whole.indirect_effects(), equal_nan=True)


def test_one_prompt_with_two_subjects_is_two():
    one = make(prompts=1)
    other = dataclasses.replace(one, subjects=("house",))
    assert CausalTrace.joined([one, other]).subjects == ("van gogh", "house")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"component": "unet"}, "component"),
        ({"sites": ("a", "b", "c", "d")}, "sites"),
        ({"columns": ("x", "y", "z")}, "columns"),
        ({"column_axis": "step"}, "column axis"),
        ({"score": "another"}, "score"),
        ({"probe": "other text"}, "probe"),
        ({"settings": {"steps": 4}}, "settings: steps"),
        ({"settings": {"steps": 3, "guidance": 2}}, "settings: guidance"),
    ],
)
def test_traces_of_different_things_are_not_joined(change, said):
    with pytest.raises(TraceError, match=f"other {said} than"):
        CausalTrace.joined([make(prompts=1), dataclasses.replace(make(prompts=1), prompts=("x",), **change)])


def test_draws_and_controls_fit_too():
    one = make(prompts=1)
    for other, said in ((make(prompts=1, draws=1), "draws"), (make(prompts=1, controls=2), "controls")):
        with pytest.raises(TraceError, match=said):
            CausalTrace.joined([one, dataclasses.replace(other, prompts=("x",))])


def test_no_run_counts_twice_and_none_is_missing():
    whole = make(prompts=3, seeds=2)
    with pytest.raises(TraceError, match="'prompt 1' with seed 0 is in two"):
        CausalTrace.joined([part(whole, [0, 1], [0, 1]), part(whole, [1, 2], [0, 1])])
    with pytest.raises(TraceError, match="'prompt 2' with seed 1 is in no trace"):
        CausalTrace.joined([part(whole, [0, 1], [0, 1]), part(whole, [2], [0])])
    with pytest.raises(TraceError, match="in two"):
        CausalTrace.joined([dataclasses.replace(whole, prompts=("a", "a", "b"))])
    with pytest.raises(TraceError, match="no trace to join"):
        CausalTrace.joined([])
