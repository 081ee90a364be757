"""docs/trace-file.md says what the files hold: its own programs read them, and its tables name what is there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from diff_quickfix.sweeps.plan import Shard, _sha256
from diff_quickfix.sweeps.store import MADE, SweepFolder
from diff_quickfix.sweeps.tables import COLUMNS, to_parquet
from diff_quickfix.tracing.results.trace_file import save_trace
from made_up_sweeps import PROMPTS, made_up_plan, made_up_trace
from safetensors import safe_open

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "trace-file.md").read_text(encoding="utf-8")


def named(heading):
    """The names in the first column of the table under a heading."""
    part = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    firsts = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [name for cell in firsts for name in re.findall(r"`([^`]+)`", cell)]


@pytest.fixture
def written(tmp_path):
    """A folder with all that the page speaks of."""
    trace = made_up_trace(PROMPTS, (0, 1))
    save_trace(trace, tmp_path / "all.trace.safetensors")
    to_parquet(trace, tmp_path / "all.parquet")
    return tmp_path


@pytest.mark.parametrize("number", [0, 1])
def test_the_programs_on_the_page_run(written, number):
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    ended = subprocess.run([sys.executable, "-I", "-c", program], cwd=written, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    effects = made_up_trace(PROMPTS, (0, 1)).indirect_effects()
    wanted = (effects[..., 0, :].nanmean(), effects[..., 0, 0].mean())[number]
    found = re.findall(r"text\.0\.self_attn.*?(\d\.\d{3,})", ended.stdout, re.DOTALL)[0]
    assert float(found) == pytest.approx(float(wanted), abs=1e-4)


def test_the_page_names_what_is_in_the_files(written):
    with safe_open(written / "all.trace.safetensors", "np") as file:
        assert sorted(file.keys()) == sorted(named("Tensors"))
        labels = json.loads(file.metadata()["causal_trace"])
    assert {*labels, "examples", "probe"} == set(named("Labels"))
    assert named("The table") == list(COLUMNS)


def test_the_page_tells_how_a_sweep_is_named(tmp_path):
    plan = made_up_plan()
    folder, shard = SweepFolder.make(tmp_path, plan), Shard("a h\u00e4user by [van gogh]", (0, 1))
    folder = SweepFolder.make(tmp_path, plan.extended([shard.prompt], []))
    folder.write(shard, made_up_trace([shard.prompt], shard.seeds), {"device": "cpu"})
    assert set(folder.read(shard).settings[MADE]) == set(named("A sweep's folder"))
    fields = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert all(f"`{name}`" in PAGE for name in fields)
    assert fields["hash"] == _sha256([1, fields["tracer"], fields["settings"], fields["identity"], fields["version"]])
    assert shard.name.startswith(_sha256(["a h\u00e4user by [van gogh]", [0, 1]])[:20])
