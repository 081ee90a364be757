"""The trace's arithmetic, statistics, file and drawing."""

import csv
import io

import pytest
import torch
from diff_quickfix.tracing.heatmap import draw_heatmap, heatmap_svg
from diff_quickfix.tracing.locate import locate
from diff_quickfix.tracing.result import CausalTrace, TraceError, compare
from diff_quickfix.tracing.statistics import beats_control, confidence_interval
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

SITES = ("text.0.self_attn", "text.1.self_attn", "text.0.mlp", "text.1.mlp")
COLUMNS = ("gogh", "<padding>", "all")


def make(prompts=6, seeds=2, draws=2, controls=8, seed=0, planted=None, noise=0.1, **labels):
    """A trace of noise, with an effect planted in one cell."""
    rng = torch.Generator().manual_seed(seed)
    units = (prompts, seeds, draws)
    corrupted = torch.randn(units, generator=rng)
    restored = corrupted[..., None, None] + noise * torch.randn(*units, 4, 3, generator=rng)
    if planted is not None:
        restored[..., planted[0], planted[1]] += 1.0
    control = corrupted[..., None] + noise * torch.randn(*units, controls, generator=rng)
    fields = {
        "prompts": tuple(f"prompt {i}" for i in range(prompts)), "subjects": ("van gogh",) * prompts, "sites": SITES,
        "columns": COLUMNS, "score": "cosine", "settings": {"steps": 3},
    }  # fmt: skip
    return CausalTrace(
        component="text", column_axis="token", seeds=tuple(range(seeds)), draws=draws,
        clean=torch.full((prompts, seeds), 3.0), corrupted=corrupted, restored=restored, control=control,
        **{**fields, **labels},
    )  # fmt: skip


def assert_equal(one, other):
    for name in ("clean", "corrupted", "restored", "control"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=0, rtol=0, equal_nan=True)
    for name in ("component", "sites", "columns", "column_axis", "prompts", "subjects", "seeds", "draws", "score",
                 "settings"):
        assert getattr(one, name) == getattr(other, name)


# --- arithmetic ------------------------------------------------------------------------------------------------------


def test_effects_by_hand():
    trace = make(prompts=1, seeds=1, draws=1)
    p = (0, 0, 0)
    assert float(trace.indirect_effects()[(*p, 1, 2)]) == pytest.approx(
        float(trace.restored[(*p, 1, 2)] - trace.corrupted[p])
    )
    assert float(trace.total_effects()[p]) == pytest.approx(3 - float(trace.corrupted[p]))
    torch.testing.assert_close(
        trace.recovery(), trace.indirect_effects()[p] / trace.total_effects()[p], atol=1e-5, rtol=1e-5
    )


def test_recovery_is_one_for_clean_scores_and_undefined_without_total_effect():
    trace = make()
    whole = CausalTrace(**{**vars(trace), "restored": trace.clean[..., None, None, None].expand_as(trace.restored)})
    torch.testing.assert_close(whole.recovery(), torch.ones(4, 3))
    assert trace.recovery(floor=1e9).isnan().all()


def test_what_was_not_measured_is_left_out():
    trace = make()
    part = trace.restored.clone()
    part[1:, :, :, 0, 0] = torch.nan
    part[..., 1, 1] = torch.nan
    half = CausalTrace(**{**vars(trace), "restored": part})
    assert float(half.average_indirect_effect()[0, 0]) == pytest.approx(
        float(trace.indirect_effects()[0, ..., 0, 0].mean()), abs=1e-6
    )
    assert half.average_indirect_effect()[1, 1].isnan()
    assert not beats_control(half)[1, 1]
    draw_heatmap(half)


@pytest.mark.parametrize("name", ["clean", "corrupted", "restored", "control"])
def test_wrong_shapes_are_refused(name):
    trace = make()
    with pytest.raises(TraceError, match=name):
        CausalTrace(**{**vars(trace), name: getattr(trace, name)[:1]})
    with pytest.raises(TraceError, match="subjects"):
        CausalTrace(**{**vars(trace), "subjects": ()})


def test_comparison_of_common_cells():
    one, other = make(seed=1), make(seed=2, sites=(*SITES[1:], "text.9.mlp"))
    both = compare(one, other)
    assert both.sites == SITES[1:]
    want = one.average_indirect_effect()[1:] - other.average_indirect_effect()[:3]
    torch.testing.assert_close(both.difference, want)
    with pytest.raises(TraceError, match="different things"):
        compare(one, make(score="other"))
    with pytest.raises(TraceError, match="share no"):
        compare(one, make(columns=("x", "y", "z")))


# --- statistics ------------------------------------------------------------------------------------------------------


def test_a_planted_effect_beats_the_control_and_noise_rarely_does():
    false = 0
    for seed in range(40):
        trace = make(seed=seed, planted=(2, 1))
        found = beats_control(trace, smallest=0)
        assert found[2, 1]
        false += int(found.sum()) - 1
    # T10: 40 traces of 11 empty cells at a family level of 5 %.
    assert false <= 6


def test_without_controls_nothing_is_significant():
    assert not beats_control(make(controls=0, planted=(0, 0))).any()


def test_the_interval_covers_the_truth():
    covered = [0.0, 0.0]
    for seed in range(60):
        trace = make(prompts=12, seed=seed, planted=(0, 0))
        low, high = confidence_interval(trace)
        covered[0] += float(low[0, 0] <= 1.0 <= high[0, 0])
        covered[1] += float(low[1, 1] <= 0.0 <= high[1, 1])
    assert all(count / 60 > 0.8 for count in covered)
    low, _ = confidence_interval(make(prompts=1, seeds=1, draws=1))
    assert low.isnan().all()


def test_units_are_prompts_when_there_are_several():
    """Copies of one prompt's runs say nothing new: the interval must not shrink with them."""
    few = make(prompts=5, seeds=1, draws=1)
    many = CausalTrace(**{
        **vars(few), "draws": 9, "corrupted": few.corrupted.expand(-1, -1, 9),
        "restored": few.restored.expand(-1, -1, 9, -1, -1), "control": few.control.expand(-1, -1, 9, -1),
    })  # fmt: skip
    for one, other in zip(confidence_interval(few), confidence_interval(many), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("row", [0, 1])
def test_locate_finds_the_planted_layer(row):
    found = locate(make(planted=(row, 1)), "self_attn")
    assert (found.site, found.layer, found.column) == (SITES[row], row, "<padding>")
    assert found.confidence == 1.0
    assert SITES[row] in found.text()
    assert locate(make(planted=(3, 0)), None).site == "text.1.mlp"
    with pytest.raises(TraceError, match="no site of kind resnet"):
        locate(make(), "resnet")
    assert "no confidence" in locate(make(prompts=1, seeds=1, draws=1)).text()


# --- files -----------------------------------------------------------------------------------------------------------


@given(
    prompts=st.lists(st.text(max_size=20), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    value=st.one_of(st.text(max_size=5), st.integers(), st.none(), st.lists(st.integers(), max_size=2)),
)
def test_round_trip(tmp_path_factory, prompts, seed, value):
    path = tmp_path_factory.mktemp("traces") / "a.safetensors"
    trace = make(prompts=len(prompts), seed=seed, settings={"value": value})
    trace = CausalTrace(**{**vars(trace), "prompts": tuple(prompts)})
    trace.save(path)
    assert_equal(CausalTrace.load(path), trace)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_is_overwritten_by_accident(tmp_path):
    path = tmp_path / "a.safetensors"
    make(seed=1).save(path)
    before = path.read_bytes()
    with pytest.raises(TraceError, match="exists already"):
        make(seed=2).save(path)
    assert path.read_bytes() == before
    make(seed=2).save(path, overwrite=True)
    assert_equal(CausalTrace.load(path), make(seed=2))


@given(where=st.floats(0, 1), change=st.binary(min_size=1, max_size=8), cut=st.booleans())
@settings(max_examples=150)
def test_damaged_files_are_refused_or_still_traces(tmp_path_factory, where, change, cut):
    path = tmp_path_factory.mktemp("traces") / "a.safetensors"
    make(prompts=1, seeds=1, draws=1).save(path)
    data = path.read_bytes()
    at = int(where * (len(data) - 1))
    path.write_bytes(data[:at] if cut else data[:at] + change + data[at + len(change):])
    try:
        CausalTrace.load(path)
    except TraceError as error:
        assert len(str(error)) > 10


def test_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(TraceError, match="no trace file"):
        CausalTrace.load(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(TraceError, match="not a causal trace"):
        CausalTrace.load(path)
    tensors = {name: torch.zeros(1) for name in ("clean", "corrupted", "restored", "control")}
    save_file(tensors, path, {"causal_trace": '{"schema": 99}'})
    with pytest.raises(TraceError, match="newer version"):
        CausalTrace.load(path)
    for text in ("[]", "{}", "nonsense", '{"schema": 1}', '{"schema": 1, "sites": 3}'):
        save_file(tensors, path, {"causal_trace": text})
        with pytest.raises(TraceError):
            CausalTrace.load(path)


def test_the_table_says_what_the_trace_says():
    trace = make(prompts=2)
    trace = CausalTrace(**{**vars(trace), "prompts": ("=cmd()", 'a "quoted", one\nof two lines')})
    rows = list(csv.DictReader(io.StringIO(trace.to_csv())))
    assert len(rows) == trace.restored.numel()
    assert rows[0]["prompt"] == "'=cmd()"
    assert rows[-1]["prompt"] == trace.prompts[1]
    assert float(rows[5]["indirect_effect"]) == pytest.approx(float(trace.indirect_effects().flatten()[5]), abs=1e-6)
    assert float(rows[-1]["restored"]) == pytest.approx(float(trace.restored.flatten()[-1]), abs=1e-6)


# --- drawing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["indirect effect", "recovery"])
@pytest.mark.parametrize("width", [600, 1200])
def test_the_strongest_cell_stands_out(value, width):
    strong, plain = (draw_heatmap(make(planted=p, noise=0.01), value=value, width=width) for p in ((0, 0), None))
    assert strong.shape[1] == width
    assert strong.dtype.name == "uint8"
    yellow = (strong[..., 0] > 200) & (strong[..., 1] > 180) & (strong[..., 2] < 120)
    assert yellow.sum() > 300
    assert plain.shape == strong.shape


def test_text_of_strangers_is_drawn_as_text():
    hostile = "$\\frac{1}{$ <script>alert(1)</script> \x00\x1b[31m" + "very long " * 200
    trace = make(prompts=1)
    trace = CausalTrace(**{
        **vars(trace), "prompts": (hostile,), "subjects": (hostile,), "columns": (hostile, "$$", "\n"),
        "score": hostile,
    })  # fmt: skip
    assert draw_heatmap(trace).shape[1] == 1200
    assert "<script>" not in heatmap_svg(trace)
    with pytest.raises(ValueError, match="recovery"):
        draw_heatmap(trace, value="other")
