"""The drawing of a trace: what stands out, its size, and texts of strangers."""

import sys

import numpy as np
import pytest
import torch
from diff_quickfix.tracing.results.comparison import compare
from diff_quickfix.tracing.results.heatmap import draw_difference, draw_heatmap, heatmap_svg, save_svg, shorten
from diff_quickfix.tracing.results.trace import CausalTrace, TraceError
from hypothesis import given, settings
from hypothesis import strategies as st

SITES = ("text.0.self_attn", "text.1.self_attn", "text.0.mlp", "text.1.mlp")
HOSTILE = "$\\frac{1}{$ <script>alert(1)</script> \x00\x1b[31m\u202e\ud800" + "very long " * 200


def make(
    planted=None,
    effect=1.0,
    controls=8,
    noise=0.01,
    sites=SITES,
    columns=("gogh", "<padding>", "all"),
    number=4,
    **labels,
):
    """A trace of noise, with an effect planted in one cell."""
    rng = torch.Generator().manual_seed(0)
    corrupted = torch.randn(number, 1, 2, generator=rng)
    restored = corrupted[..., None, None] + noise * torch.randn(number, 1, 2, len(sites), len(columns), generator=rng)
    if planted is not None:
        restored[..., planted[0], planted[1]] += effect
    fields = {"prompts": ("a house",) * number, "subjects": ("house",) * number, "score": "cosine", **labels}
    return CausalTrace(
        component="text",
        column_axis="token",
        seeds=(0,),
        draws=2,
        sites=sites,
        columns=columns,
        clean=torch.full((number, 1), 3.0),
        corrupted=corrupted,
        restored=restored,
        control=corrupted[..., None] + noise * torch.randn(number, 1, 2, controls, generator=rng),
        **fields,
    )


def near(picture, color, reach=40):
    """How many pixels have about this color."""
    return int((np.abs(picture.astype(int) - np.array(color)).max(-1) < reach).sum())


YELLOW, PURPLE, ORANGE, OUTLINE = (253, 231, 55), (45, 0, 75), (127, 59, 8), (209, 0, 47)


@pytest.mark.parametrize("value", ["indirect effect", "recovery"])
@pytest.mark.parametrize("width", [600, 1200])
def test_the_strongest_cell_stands_out(value, width):
    strong, plain = (draw_heatmap(make(p), value=value, width=width) for p in ((0, 0), None))
    assert strong.dtype == np.uint8
    assert strong.shape == plain.shape
    # The cell itself, beyond its color in the bar.
    assert near(strong, YELLOW) > near(plain, YELLOW) + 500
    assert near(strong, OUTLINE) > 50


@pytest.mark.parametrize("prompts", [1, 8])
def test_only_cells_that_stand_out_from_the_control_have_their_color(prompts):
    clear, hidden = (make((0, 0), noise=0.01, number=prompts) for _ in range(2))
    # One control in two does as much as the cell.
    control = hidden.control.clone()
    control[..., ::2] += 2 * torch.randn(control[..., ::2].shape, generator=torch.Generator().manual_seed(4))
    hidden = CausalTrace(**{**vars(hidden), "control": control})
    assert near(draw_heatmap(clear), YELLOW) > 2 * near(draw_heatmap(hidden), YELLOW)


def test_the_footer_says_what_hatching_means():
    for trace, words in ((make(number=8), "no different from the control"), (make(number=2), "2 prompts: no claim")):
        assert words in heatmap_svg(trace)


def test_signs_have_different_colors():
    both = make((0, 0))
    restored = both.restored.clone()
    restored[..., 3, 2] -= 1
    picture = draw_heatmap(CausalTrace(**{**vars(both), "restored": restored}))
    assert near(picture, ORANGE) > 1000
    assert near(picture, PURPLE) > 1000


def test_cells_that_were_not_measured_are_white_and_none_is_best():
    trace = make()
    picture = draw_heatmap(CausalTrace(**{**vars(trace), "restored": torch.full_like(trace.restored, torch.nan)}))
    assert near(picture, OUTLINE) == 0


@settings(max_examples=12, deadline=None)
@given(width=st.integers(400, 1600))
def test_the_width_is_as_asked(width):
    assert draw_heatmap(make(), width=width).shape[1] == width


@settings(max_examples=15, deadline=None)
@given(effect=st.sampled_from([0.0, 1e-40, 1e-30, -1e-12, -5.0, 1e20, -1e37]), noise=st.sampled_from([0.0, 1e-20, 0.1]))
def test_effects_of_any_size_are_drawn(effect, noise):
    assert draw_heatmap(make((1, 1), effect=effect, noise=noise), width=500).shape[1] == 500


def test_texts_of_strangers_are_drawn_as_texts(tmp_path):
    trace = make(
        sites=(HOSTILE, "text.0.$\\frac{$", "a.$x^", "\n"),
        columns=(HOSTILE, "$$", "\n"),
        score=HOSTILE,
        prompts=(HOSTILE,) * 4,
        subjects=(HOSTILE,) * 4,
    )
    assert draw_heatmap(trace, title=HOSTILE).shape[1] == 1200
    assert "<script>" not in heatmap_svg(trace)
    save_svg(trace, tmp_path / "a.svg", title=HOSTILE)
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="recovery"):
        draw_heatmap(trace, value="other")


def test_latex_and_the_current_figure_are_left_alone():
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True}):
        before = dict(matplotlib.rcParams)
        draw_heatmap(make(columns=("$\\input{x}$", "%", "_")))
        assert dict(matplotlib.rcParams) == before


@given(st.text(st.characters(codec=None)))
def test_labels_are_short_and_printable(text):
    label = shorten(text, 20)
    assert len(label) <= 20
    assert label.isprintable()


def test_a_title_replaces_the_heading():
    assert (draw_heatmap(make(), title="Mine")[:45] != draw_heatmap(make())[:45]).any()


def test_pictures_without_end_are_refused():
    with pytest.raises(TraceError, match="1001 sites"):
        draw_heatmap(make(sites=tuple(f"text.{i}.mlp" for i in range(1001))))
    with pytest.raises(TraceError, match="kinds"):
        draw_heatmap(make(sites=tuple(f"text.0.kind{i}" for i in range(25))))


@pytest.mark.parametrize("draw", [draw_heatmap, heatmap_svg])
def test_a_missing_matplotlib_is_named(monkeypatch, draw):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        draw(make())


def test_a_difference_has_one_scale_with_white_at_zero_and_says_what_is_left_out():
    one, other = make((1, 0), noise=0.0), make((2, 2), noise=0.0, sites=(*SITES, "text.9.mlp"))
    found = compare(one, other)
    wanted = torch.zeros(4, 3)
    wanted[1, 0], wanted[2, 2] = 1.0, -1.0
    torch.testing.assert_close(found.difference, wanted, atol=1e-5, rtol=0)
    assert found.text() == (
        "4 sites and 3 columns are shared. Left out, as the other trace alone has them: 1 sites, 0 columns."
    )
    drawn, turned = draw_difference(found, width=800), draw_difference(compare(other, one), width=800)
    assert drawn.shape == turned.shape and drawn.shape[1] == 800
    # One cell of either color, as large as each other, and of each the other's in the difference the other way round.
    high, low = (127, 59, 8), (45, 0, 75)
    cells = [near(picture, color, reach=12) for picture in (drawn, turned) for color in (high, low)]
    assert min(cells) > 500 and max(cells) < 1.5 * min(cells)


@pytest.mark.parametrize("noise", [0.0, float("nan")])
def test_equal_traces_and_such_as_were_not_measured_are_drawn(noise):
    trace = make(noise=noise)
    assert draw_difference(compare(trace, trace)).shape[1] == 1200
