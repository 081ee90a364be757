"""The trace's arithmetic, statistics and file."""

import csv
import io
import json

import pytest
import torch
from diff_quickfix.families.unet import site_names
from diff_quickfix.tracing.results.comparison import compare
from diff_quickfix.tracing.results.judgement import judge
from diff_quickfix.tracing.results.locate import best_cell, locate
from diff_quickfix.tracing.results.tables import trace_table
from diff_quickfix.tracing.results.trace import CausalTrace, TraceError
from diff_quickfix.tracing.results.trace_file import load_trace, save_trace
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_traces import SITES, make
from safetensors.torch import save_file


def assert_equal(one, other):
    for name in ("clean", "corrupted", "restored", "control"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=0, rtol=0, equal_nan=True)
    for name in (
        "component",
        "sites",
        "columns",
        "column_axis",
        "prompts",
        "subjects",
        "seeds",
        "draws",
        "score",
        "settings",
    ):
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
    assert not judge(half).beats_control[1, 1]


def test_recovery_compares_effects_of_the_same_runs():
    trace = make()
    part = trace.clean[..., None, None, None].expand_as(trace.restored).clone()
    part[2:, :, :, 0, 0] = torch.nan
    torch.testing.assert_close(CausalTrace(**{**vars(trace), "restored": part}).recovery(), torch.ones(4, 3))


def test_the_best_cell():
    best = best_cell(make(planted=(2, 1)))
    assert (best.site, best.column, best.beats_control) == ("text.0.mlp", "<padding>", True)
    assert best.low < best.effect < best.high
    assert best.effect == pytest.approx(1, abs=0.1)
    trace = make()
    with pytest.raises(TraceError, match="no finished cell"):
        best_cell(CausalTrace(**{**vars(trace), "restored": torch.full_like(trace.restored, torch.nan)}))


def test_scores_are_copies_and_finite():
    scores = torch.zeros(1, 1, dtype=torch.float64)
    trace = make(prompts=1, seeds=1, draws=1)
    trace = CausalTrace(**{**vars(trace), "clean": scores})
    scores += 1
    assert float(trace.clean) == 0
    assert trace.clean.dtype == torch.float32
    with pytest.raises(TraceError, match="infinite"):
        CausalTrace(**{**vars(trace), "clean": torch.full((1, 1), torch.inf)})


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


# --- the strongest site ---------------------------------------------------------------------------------------------


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
    save_trace(trace, path)
    assert_equal(load_trace(path), trace)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nothing_is_overwritten_by_accident(tmp_path):
    path = tmp_path / "a.safetensors"
    save_trace(make(seed=1), path)
    before = path.read_bytes()
    with pytest.raises(TraceError, match="exists already"):
        save_trace(make(seed=2), path)
    assert path.read_bytes() == before
    save_trace(make(seed=2), path, overwrite=True)
    assert_equal(load_trace(path), make(seed=2))


@given(where=st.floats(0, 1), change=st.binary(min_size=1, max_size=8), cut=st.booleans())
@settings(max_examples=150)
def test_damaged_files_are_refused_or_still_traces(tmp_path_factory, where, change, cut):
    path = tmp_path_factory.mktemp("traces") / "a.safetensors"
    save_trace(make(prompts=1, seeds=1, draws=1), path)
    data = path.read_bytes()
    at = int(where * (len(data) - 1))
    path.write_bytes(data[:at] if cut else data[:at] + change + data[at + len(change) :])
    try:
        load_trace(path)
    except TraceError as error:
        assert len(str(error)) > 10


def test_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(TraceError, match="no trace file"):
        load_trace(path)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(TraceError, match="not a causal trace"):
        load_trace(path)
    tensors = {name: torch.zeros(1) for name in ("clean", "corrupted", "restored", "control")}
    save_file(tensors, path, {"causal_trace": '{"schema": 99}'})
    with pytest.raises(TraceError, match="newer version"):
        load_trace(path)
    for text in ("[]", "{}", "nonsense", '{"schema": 1}', '{"schema": 1, "sites": 3}'):
        save_file(tensors, path, {"causal_trace": text})
        with pytest.raises(TraceError):
            load_trace(path)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": -4},
        {"schema": True},
        {"schema": None},
        {"seeds": ["0"]},
        {"seeds": [True]},
        {"draws": 2.0},
        {"draws": -1},
        {"sites": "text"},
        {"sites": []},
        {"sites": ["a"]},
        {"prompts": [1]},
        {"component": "vae"},
        {"component": None},
        {"settings": []},
        {"score": 3},
        {"column_axis": "x"},
        {"columns": None},
    ],
)
def test_labels_of_another_type_are_refused(tmp_path, change):
    path = tmp_path / "a.safetensors"
    trace = make(prompts=1)
    names = (
        "component",
        "sites",
        "columns",
        "column_axis",
        "prompts",
        "subjects",
        "seeds",
        "draws",
        "score",
        "settings",
    )
    labels = {"schema": 1, **{name: getattr(trace, name) for name in names}}
    tensors = {name: getattr(trace, name) for name in ("clean", "corrupted", "restored", "control")}
    save_file(tensors, path, {"causal_trace": json.dumps(labels)})
    assert_equal(load_trace(path), trace)
    save_file(tensors, path, {"causal_trace": json.dumps({**labels, **change})})
    with pytest.raises(TraceError, match=r"a\.safetensors"):
        load_trace(path)


def test_hostile_contents_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {name: torch.zeros(1) for name in ("clean", "corrupted", "restored", "control")}
    save_file(tensors, path, {"causal_trace": "[" * 200_000})
    with pytest.raises(TraceError, match="damaged metadata"):
        load_trace(path)
    save_file({**tensors, "clean": torch.zeros(1, dtype=torch.float8_e4m3fn)}, path, {"causal_trace": "{}"})
    with pytest.raises(TraceError, match="float32"):
        load_trace(path)
    for data in (b"", b"\x80\x04.", b"\xff" * 64):
        path.write_bytes(data)
        with pytest.raises(TraceError, match="damaged"):
            load_trace(path)
    with pytest.raises(TraceError, match="no trace file"):
        load_trace(tmp_path)


def test_what_cannot_be_saved_leaves_nothing_behind(tmp_path):
    with pytest.raises(TraceError, match="no JSON"):
        save_trace(make(settings={"a": {1}}), tmp_path / "a.safetensors")
    with pytest.raises(TraceError, match="Cannot write"):
        save_trace(make(), tmp_path / "missing" / "a.safetensors")
    assert not list(tmp_path.iterdir())


@given(
    prompt=st.text(st.characters(codec=None), max_size=8),
    start=st.sampled_from(["", "=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", '"', "'", ","]),
)
def test_the_table_is_harmless_and_reads_back(prompt, start):
    text = start + prompt
    trace = make(prompts=1, seeds=1, draws=1, sites=(text, *SITES[1:]), columns=(text, "a", "b"))
    trace = CausalTrace(**{**vars(trace), "prompts": (text,), "subjects": (text,)})
    table = trace_table(trace)
    table.encode("utf-8")
    rows = list(csv.DictReader(io.StringIO(table, newline="")))
    assert len(rows) == 12
    known = text.encode("utf-8", "replace").decode("utf-8")
    for name in ("prompt", "subject", "site", "token"):
        assert rows[0][name] in (known, f"'{known}")
        assert not rows[0][name].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    for name, values in (("restored", trace.restored), ("indirect_effect", trace.indirect_effects())):
        assert [float(row[name]) for row in rows] == values.flatten().tolist()


def test_the_table_says_what_the_trace_says():
    trace = make(prompts=2)
    trace = CausalTrace(**{**vars(trace), "prompts": ("=cmd()", 'a "quoted", one\nof two lines')})
    rows = list(csv.DictReader(io.StringIO(trace_table(trace))))
    assert len(rows) == trace.restored.numel()
    assert rows[0]["prompt"] == "'=cmd()"
    assert rows[-1]["prompt"] == trace.prompts[1]
    assert float(rows[5]["indirect_effect"]) == pytest.approx(float(trace.indirect_effects().flatten()[5]), abs=1e-6)
    assert float(rows[-1]["restored"]) == pytest.approx(float(trace.restored.flatten()[-1]), abs=1e-6)


def test_files_of_earlier_versions_share_cells_with_todays(tmp_path):
    """They counted a UNet's blocks as ComfyUI does."""
    old = ("unet.input.4.1.cross_attn", "unet.output.8.1.t1.self_attn", "unet.middle.2.resnet", "unet.input.3.block")
    new = ("unet.down.1.a0.cross_attn", "unet.up.2.a2.t1.self_attn", "unet.mid.r1.resnet", "unet.down.0.d0.block")
    save_trace(make(sites=old, component="unet", column_axis="step"), tmp_path / "a.safetensors")
    read = load_trace(tmp_path / "a.safetensors")
    assert read.sites == new
    assert compare(read, make(sites=new, component="unet", column_axis="step")).sites == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("unet.input.1.1..middle.1.self_attn", "unet.down.0.a0..mid.a0.self_attn"),
        ("unet.input.0.block", "unet.in.block"),
        ("unet.middle.block", "unet.mid.block"),
        ("unet.output.11.0.resnet", "unet.up.3.r2.resnet"),
        ("text.0.self_attn", "text.0.self_attn"),
        ("unet.down.0.a0.self_attn", "unet.down.0.a0.self_attn"),
        ("unet.input.self_attn", "unet.input.self_attn"),
        ("unet.input.4.1", "unet.input.4.1"),
        ("unet.middle.x.resnet", "unet.middle.x.resnet"),
    ],
)
def test_names_of_earlier_versions(old, new):
    assert site_names([old]) == (new,)


def test_names_of_another_layout_are_left_alone():
    """An attention at the fourth of ComfyUI's blocks: one residual block a level, not two."""
    names = ("unet.input.1.0.resnet", "unet.input.3.1.cross_attn")
    assert site_names(names) == names
