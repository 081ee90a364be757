"""How much pictures changed, beside a whole cosine transform of another library and pictures whose answer is known."""

import numpy as np
import pytest
from diff_quickfix.output.picture_changes import CYCLES, Change, change_between, percent, summary, together
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dctn

NOISE = np.random.default_rng(0)


@given(st.integers(3, 70), st.integers(3, 70))
def test_the_low_part_is_that_of_a_whole_cosine_transform(height, width):
    before, after = NOISE.random((2, height, width, 3))
    found = change_between(before, after)
    whole = dctn(after - before, axes=(0, 1), norm="ortho")
    rows, columns = (min(side, round(2 * CYCLES * side / min(height, width))) for side in (height, width))
    assert found.low_energy == pytest.approx((whole[:rows, :columns] ** 2).sum())
    assert found.energy == pytest.approx((whole**2).sum())
    assert found.mean == pytest.approx(np.abs(after - before).mean())


def test_light_is_low_and_texture_is_high():
    picture = NOISE.random((64, 96, 3)) / 2
    brighter = change_between(picture, picture + 0.1)
    assert (brighter.mean, brighter.low) == (pytest.approx(0.1), pytest.approx(1)) and brighter.high == pytest.approx(0)
    board = 0.1 * (np.indices((64, 96)).sum(0) % 2 - 0.5)[..., None]
    textured = change_between(picture, picture + board)
    assert textured.high > 0.99


def test_waves_are_counted_over_the_shorter_side():
    """A wave of as many pixels is as low in a wide picture as in a square one."""
    for width in (128, 512):
        place = np.arange(width)[None, :, None] / 128
        shares = [change_between(np.zeros((128, width, 1)), np.cos(2 * np.pi * n * place)).low for n in (6, 10)]
        assert shares[0] > 0.95 and shares[1] < 0.05


def test_no_change_is_no_share():
    same = change_between(*[NOISE.random((8, 8, 3))] * 2)
    assert same == Change(0, 0, 0) and same.low == same.high == 0


def test_several_are_as_one():
    before, after = NOISE.random((2, 2, 32, 32, 3))
    one, two = (change_between(*pair) for pair in zip(before, after, strict=True))
    whole = together([one, two])
    assert whole.mean == pytest.approx(np.abs(after - before).mean())
    assert whole.energy == pytest.approx(((after - before) ** 2).sum())
    assert min(one.low, two.low) <= whole.low <= max(one.low, two.low)


def test_the_words():
    light, nothing = Change(0.123, 10, 7.5), Change(0, 0, 0)
    lines = summary(["off", "on", "half"], [[light, light], [nothing, nothing]], ["a cat", ""]).splitlines()
    assert lines[0] == (
        'Beside "off", the 2 pictures changed by 12 % in "on" (75 % of it layout and color, 25 % texture), '
        'not at all in "half".'
    )
    assert lines[2:] == [
        "row 1: a cat",
        "  on: 12 % changed; 75 % of it layout and color, 25 % texture",
        "  half: no pixel changed",
        "row 2",
        *("  on: 12 % changed; 75 % of it layout and color, 25 % texture", "  half: no pixel changed"),
    ]
    assert [percent(x) for x in (0, 0.004, 0.0994, 0.0996, 1)] == ["0 %", "0.4 %", "9.9 %", "10 %", "100 %"]
