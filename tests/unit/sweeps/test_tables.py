"""Tables and arrays say what the trace says."""

import builtins
import dataclasses
import itertools

import numpy as np
import pytest
import xarray
from diff_quickfix.sweeps import tables
from diff_quickfix.sweeps.plan import SweepError
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.sweeps.tables import COLUMNS, to_parquet, to_xarray
from made_up_sweeps import PROMPTS, MadeUpOpener, made_up_plan, made_up_trace
from pyarrow import parquet

SEEDS = (0, 1, 2, 3)


def rows_of(path):
    table = parquet.read_table(path)
    return table.to_pylist(), table.schema


@pytest.mark.parametrize("group", [50, 100_000])
def test_the_table_has_every_restored_run_once(tmp_path, monkeypatch, group):
    monkeypatch.setattr(tables, "_ROWS", group)
    folder = SweepFolder.make(tmp_path / "sweep", made_up_plan())
    run_sweep(folder, opener=MadeUpOpener())
    trace = made_up_trace(PROMPTS, SEEDS)
    count = to_parquet(folder, tmp_path / "a.parquet")
    rows, schema = rows_of(tmp_path / "a.parquet")
    assert schema.names == list(COLUMNS)
    assert len(rows) == count == trace.restored.numel() + trace.control.numel()
    named = ("prompt", "seed", "draw", "kind", "site", "column", "control")
    found = {tuple(row[name] for name in named): row for row in rows}
    assert len(found) == count
    axes = (enumerate(trace.prompts), enumerate(trace.seeds), range(trace.draws))
    for (p, prompt), (s, seed), d in itertools.product(*map(list, axes)):
        for (row, site), (column, label) in itertools.product(enumerate(trace.sites), enumerate(trace.columns)):
            cell = found[prompt, seed, d, "cell", site, label, None]
            for name, value in (
                ("restored", trace.restored[p, s, d, row, column]),
                ("indirect_effect", trace.indirect_effects()[p, s, d, row, column]),
                ("total_effect", trace.total_effects()[p, s, d]),
                ("clean", trace.clean[p, s]),
                ("corrupted", trace.corrupted[p, s, d]),
            ):
                np.testing.assert_equal(cell[name], float(value))
            assert cell["subject"] == "van gogh"
        for number in range(4):
            control = found[prompt, seed, d, "control", None, None, number]
            assert control["restored"] == float(trace.control[p, s, d, number])


def test_a_trace_without_controls_is_a_table_too(tmp_path):
    trace = made_up_trace(PROMPTS[:1], (0,), controls=0)
    assert to_parquet(trace, tmp_path / "a.parquet") == trace.restored.numel()
    with pytest.raises(FileExistsError):
        to_parquet(trace, tmp_path / "a.parquet")
    assert to_parquet(trace, tmp_path / "a.parquet", overwrite=True) == trace.restored.numel()


def test_the_effects_of_a_probe_are_what_it_takes_away(tmp_path):
    trace = dataclasses.replace(made_up_trace(PROMPTS[:1], (0,)), probe="other text")
    to_parquet(trace, tmp_path / "a.parquet")
    rows = rows_of(tmp_path / "a.parquet")[0]
    for kind, effects in (("cell", trace.indirect_effects()), ("control", trace.control_effects())):
        found = [row["indirect_effect"] for row in rows if row["kind"] == kind]
        np.testing.assert_array_equal(found, effects.flatten().numpy())
    assert to_xarray(trace).attrs["probe"] == "other text"


def test_a_sweep_that_is_not_finished_makes_no_table(tmp_path):
    folder = SweepFolder.make(tmp_path / "sweep", made_up_plan())
    with pytest.raises(SweepError, match="16 of 16 shards are not finished"):
        to_parquet(folder, tmp_path / "a.parquet")
    assert not (tmp_path / "a.parquet").exists() and not list(tmp_path.glob("*.part"))


def test_the_dataset_has_the_traces_axes_by_name():
    trace = made_up_trace(PROMPTS, SEEDS)
    found = to_xarray(trace)
    assert isinstance(found, xarray.Dataset) and found.attrs["steps"] == 3
    one = found.restored.sel(prompt=trace.prompts[3], seed=2, site="text.0.mlp", column="subject").values
    np.testing.assert_array_equal(one, trace.restored[3, 2, :, 2, 0].numpy())
    effects = (found.restored - found.corrupted).mean(("prompt", "seed", "draw")).values
    np.testing.assert_allclose(effects, trace.average_indirect_effect().numpy(), atol=1e-6)
    assert found.subject.sel(prompt=trace.prompts[0]) == "van gogh" and found.control.dims[-1] == "null"


@pytest.mark.parametrize(("package", "made"), [("pyarrow", to_parquet), ("xarray", to_xarray)])
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, package, made):
    plain = builtins.__import__

    def lacking(name, *arguments):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return plain(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", lacking)
    arguments = (made_up_trace(PROMPTS[:1], (0,)), tmp_path / "a.parquet")[: 2 if made is to_parquet else 1]
    with pytest.raises(SweepError, match=rf"{package} is not installed.*diff-quickfix\[sweep\]"):
        made(*arguments)
