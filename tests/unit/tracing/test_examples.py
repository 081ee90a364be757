"""A trace knows its example pictures again, and no other picture passes for one."""

import dataclasses

import pytest
import torch
from diff_quickfix.tracing.results.examples import Examples, digest, examples_of
from diff_quickfix.tracing.results.trace import TraceError
from diff_quickfix.tracing.results.trace_file import load_trace, save_trace
from hypothesis import given
from hypothesis import strategies as st
from noise_traces import make


def pictures_of(count, seed=0):
    return torch.rand(count, 4, 5, 3, generator=torch.Generator().manual_seed(seed))


@given(order=st.permutations(range(5)), held=st.sets(st.integers(0, 4)))
def test_pictures_are_known_in_any_order_and_number(order, held):
    pictures = pictures_of(5)
    examples = examples_of([(0, 1), (2, 0), (3, 2)], pictures)
    given_ = [place for place in order if place in held]
    found = examples.places(pictures[given_])
    assert found == tuple(given_.index(place) if place in held else None for place in range(5))


def test_a_picture_from_an_8_bit_file_is_known_and_a_changed_one_is_not():
    pictures = pictures_of(3)
    examples = examples_of([(0, 0)], pictures)
    saved = (pictures * 255).to(torch.uint8).float() / 255
    assert examples.places(saved) == (0, 1, 2)
    changed = saved.clone()
    changed[1, 2, 2, 0] = (changed[1, 2, 2, 0] + 0.1) % 1
    assert examples.places(changed) == (0, None, 2)
    assert examples.places(pictures_of(3, seed=1)) == (None,) * 3
    assert digest(pictures[0]) != digest(pictures[0].reshape(5, 4, 3))


def test_examples_are_saved_with_the_trace(tmp_path):
    examples = examples_of([(3, 2), (0, 0)], pictures_of(4))
    trace = make()
    save_trace(dataclasses.replace(trace, examples=examples), tmp_path / "a")
    save_trace(trace, tmp_path / "b")
    assert load_trace(tmp_path / "a").examples == examples
    assert load_trace(tmp_path / "b").examples is None
    with pytest.raises(TraceError, match="not in the trace"):
        dataclasses.replace(trace, examples=examples_of([(4, 0)], pictures_of(3)))


HEX = "0" * 32


@pytest.mark.parametrize(
    "labels",
    [
        [],
        3,
        "x",
        {},
        {"cells": [], "digests": []},
        {"cells": [[0, 0]], "digests": [HEX] * 2},
        {"cells": [[0, 0]] * 2, "digests": [HEX] * 4},
        {"cells": [[0]], "digests": [HEX] * 3},
        {"cells": [[0, -1]], "digests": [HEX] * 3},
        {"cells": [[0, 1.0]], "digests": [HEX] * 3},
        {"cells": [[True, 0]], "digests": [HEX] * 3},
        {"cells": [0], "digests": [HEX] * 3},
        {"cells": [[0, 0]], "digests": [HEX, HEX, "../../x"]},
        {"cells": [[0, 0]], "digests": [HEX, HEX, 7]},
        {"cells": [[0, [0]]], "digests": [HEX] * 3},
        {"cells": [[0, i] for i in range(513)], "digests": [HEX] * 515},
        {"cells": [[4, 0]], "digests": [HEX] * 3},
    ],
)
def test_damaged_examples_are_refused(tmp_path, labels, monkeypatch):
    monkeypatch.setattr(Examples, "labels", lambda self: labels)
    save_trace(dataclasses.replace(make(), examples=examples_of([(0, 0)], pictures_of(3))), tmp_path / "a")
    with pytest.raises(TraceError, match="a is damaged"):
        load_trace(tmp_path / "a")
