"""The commands of the shell that trace, in process: on Shapes once, else on a sweep of made-up scores."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from diff_quickfix.cli import main
from diff_quickfix.cli.trace_arguments import seeds_of
from diff_quickfix.sweeps import tracers
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.tracing.results.text_map import text_map
from diff_quickfix.tracing.results.trace import TraceError
from diff_quickfix.tracing.results.trace_file import load_trace, save_trace
from made_up_sweeps import PROMPTS, MadeUpOpener, assert_equal, made_up_plan, made_up_trace
from PIL import Image

SEEDS = (0, 1, 2, 3)


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """Run a command in a folder of its own: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def swept(tmp_path):
    """A finished sweep of made-up scores in the folder "sweep"."""
    folder = SweepFolder.make(tmp_path / "sweep", made_up_plan())
    run_sweep(folder, opener=MadeUpOpener())
    return folder


@pytest.fixture
def made_up(monkeypatch):
    """The model "Shapes" is made up, so that nothing is painted; returns what was asked of it."""
    asked = []

    class Opener(MadeUpOpener):
        def __init__(self, model, settings, device):
            asked.append((model, json.loads(settings), device))
            super().__init__(refused="refuse")

        @staticmethod
        def completed(model, settings):
            return dict(settings)

    monkeypatch.setitem(tracers.OPENERS, "Shapes", Opener)
    return asked


def test_shapes_is_traced_from_the_shell(shell, tmp_path):
    (tmp_path / "prompts.txt").write_text("# one\na red circle in the style of [van gogh]\n")
    words = ("trace", "Shapes", "--prompts", "prompts.txt", "--out", "sweep", "--steps", "1", "--sites", "text.0.mlp")
    code, out, err = shell(*words, "--set", "noise_seed=4")
    assert code == 0 and "1 of 1 shards are finished in sweep" in out, err
    code, out, _ = shell("sweep", "join", "sweep", "--out", "all.trace.safetensors")
    trace = load_trace(tmp_path / "all.trace.safetensors")
    assert code == 0 and trace.sites == ("text.0.mlp",) and trace.settings["noise_seed"] == 4
    code, out, _ = shell("show", "all.trace.safetensors")
    assert code == 0 and "text.0.mlp" in out
    code, _, err = shell(*words, "--noise", "2")
    assert code == 1 and "settings: noise" in err


def test_a_sweep_is_begun_continued_and_told(shell, tmp_path, made_up):
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS[:3]))
    words = ("trace", "Shapes", "--prompts", "prompts.txt", "--out", "sweep", "--json", "--controls", "4")
    code, out, err = shell(*words, "--seeds", "0-1", "--part", "1/2", "--replaced-by", "nobody")
    said = json.loads(out)
    assert (code, said["done"], said["total"]) == (0, 3, 3) and "3 of 3" not in err
    assert made_up[0] == ("Shapes", {"controls": 4, "replaced_by": "nobody"}, "cpu")
    code, out, _ = shell("sweep", "status", "sweep")
    assert code == 0 and "3 of 6 shards finished (0 prompts whole)" in out
    (tmp_path / "prompts.txt").write_text("\n".join([*PROMPTS[:3], "I [refuse]"]))
    code, out, err = shell(*words, "--seeds", "0-3", "--replaced-by", "nobody")
    said = json.loads(out)
    assert code == 1 and (said["done"], said["total"], len(said["failed"])) == (12, 16, 4)
    assert "4 of 16 shards could not be traced" in err
    code, out, _ = shell("sweep", "status", "sweep", "--json")
    status = json.loads(out)
    assert (status["done"], status["total"], status["prompts"], status["damaged"]) == (12, 16, 3, [])
    assert status["left"] > 0 and status["per_hour"] > 0


def test_shards_are_joined_merged_and_written_as_tables(shell, swept, tmp_path):
    assert shell("sweep", "join", "sweep", "--out", "all.safetensors")[0] == 0
    assert_equal(load_trace(tmp_path / "all.safetensors"), made_up_trace(PROMPTS, SEEDS))
    code, _, err = shell("sweep", "join", "sweep", "--out", "all.safetensors")
    assert code == 1 and "exists already" in err
    assert shell("sweep", "join", "sweep", "--out", "all.safetensors", "--overwrite")[0] == 0
    assert shell("sweep", "join", "sweep", "--out", "all.csv")[0] == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == made_up_trace(PROMPTS, SEEDS).restored.numel()
    next((swept.path / "shards").iterdir()).write_bytes(b"")
    code, _, err = shell("sweep", "join", "sweep", "--out", "b.safetensors")
    assert code == 1 and "1 of 16 shards, 1 of them with a damaged file" in err
    assert shell("sweep", "join", "sweep", "--out", "b.safetensors", "--partial")[0] == 0
    assert len(load_trace(tmp_path / "b.safetensors").prompts) == 7
    code, out, _ = shell("sweep", "status", "sweep")
    assert "15 of 16" in out and "damaged, to be made anew" in out
    other = SweepFolder.make(tmp_path / "other", made_up_plan())
    run_sweep(other, opener=MadeUpOpener())
    code, out, _ = shell("sweep", "merge", "sweep", "other")
    assert code == 0 and "16 of 16 shards finished (8 prompts whole)" in out


def test_a_trace_is_shown_in_the_terminal_and_as_a_picture(shell, swept, tmp_path):
    save_trace(made_up_trace(PROMPTS, SEEDS), tmp_path / "a.safetensors")
    _, of_file, _ = shell("show", "a.safetensors", "--width", "90")
    _, of_folder, _ = shell("show", "sweep", "--width", "90")
    assert of_file == of_folder
    grown = SweepFolder.make(tmp_path / "grown", swept.plan.extended(["one [more]"], []))
    grown.merge(swept)
    assert shell("show", "grown", "--width", "90")[1:] == (
        of_file,
        "diff-quickfix: warning: 1 prompts are not finished and left out\n",
    )
    code, _, _ = shell("show", "a.safetensors", "--out", "a.png", "--width", "700")
    with Image.open(tmp_path / "a.png") as picture:
        assert code == 0 and picture.width == 700 and len(picture.getcolors(1 << 20)) > 20
    assert shell("show", "sweep", "--out", "a.svg", "--value", "recovery")[0] == 0
    assert "<svg" in (tmp_path / "a.svg").read_text()
    code, _, err = shell("show", "a.safetensors", "--out", "a.svg")
    assert code == 1 and "exists already" in err
    code, _, err = shell("show", "nothing.safetensors")
    assert code == 1 and "no trace file" in err
    code, _, err = shell("sweep", "status", ".")
    assert code == 1 and "no sweep" in err


def test_the_map_of_letters_says_what_the_trace_says():
    trace = made_up_trace(PROMPTS, SEEDS)
    lines = text_map(trace, width=90).splitlines()
    values = trace.average_indirect_effect()
    assert lines[0].split() == list(trace.columns)
    for row, site in enumerate(trace.sites):
        assert lines[1 + row].startswith(site)
        for column in range(2):
            number = float(values[row, column])
            assert (f"{number:+.3f}" if number == number else "?") in lines[1 + row]
    assert "\u2588\u2588" in lines[1] and "*" in lines[1] and "\u2588" not in lines[2]
    narrow = text_map(trace, width=20).splitlines()
    assert narrow[0].split() == ["1", "2"] and "1: subject" in narrow and narrow[1].count("\u2588") == 1
    with pytest.raises(TraceError, match="Unknown value"):
        text_map(trace, value="p")
    nothing = made_up_trace(PROMPTS[:1], (0,))
    nothing.restored.fill_(torch.nan)
    assert "Nothing measured yet" in text_map(nothing)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("trace", "Shapes", "--out", "x"), "--prompts"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--seeds", "3-1"), "expected seeds"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--seeds", "a"), "expected seeds"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--workers", "0"), "at least 1"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--seed-block", "0"), "at least 1"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--part", "3/2"), "2/8"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--set", "a"), "NAME=VALUE"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--gpus", "1"), "about Ray"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--executor", "serial", "--workers", "2"), "one shard"),
        (("trace", "Shapes", "--prompts", "p", "--out", "x", "--noise", "2", "--replaced-by", "b"), "one of them"),
        (("sweep", "join", "x", "--out", "x.txt"), "ends in"),
        (("sweep", "report", "x", "--out", "x.pdf"), "ends in"),
        (("show", "x", "--out", "x.jpg"), "ends in"),
        (("sweep",), "ACTION"),
    ],
)
def test_wrong_usage_is_told_before_any_work(shell, words, said):
    code, _, err = shell(*words)
    assert code == 2 and said in err


def test_what_is_asked_wrong_is_told_in_one_line(shell, tmp_path, made_up):
    words = ("trace", "Shapes", "--out", "x", "--prompts")
    code, _, err = shell(*words, "none.txt")
    assert code == 1 and "none.txt" in err and err.count("\n") == 1
    for content, said in ((b"", "at least one prompt"), (b"a house", "Found 0 subjects"), (b"\xff\xfe\xff", "UTF-8")):
        (tmp_path / "p.txt").write_bytes(content)
        code, _, err = shell(*words, "p.txt")
        assert code == 1 and said in err and not (tmp_path / "x").exists()


def test_seeds_are_numbers_and_ranges():
    assert seeds_of("0-3,7") == (0, 1, 2, 3, 7) and seeds_of(" 5 ") == (5,)


@pytest.mark.parametrize(("number", "sent"), [(signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)])
def test_what_ends_the_program_ends_its_workers(tmp_path, number, sent):
    """As a process with two workers; from a keyboard the signal goes to all, a kill goes to the program alone."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from diff_quickfix.cli import main, tracing\n"
        "from made_up_sweeps import MadeUpOpener, made_up_plan\n"
        "tracing.opener_of = lambda plan, device: MadeUpOpener(seconds=0.2)\n"
        "tracing.new_plan = lambda model, settings, prompts, seeds, device: made_up_plan(prompts)\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "prompts.txt").write_text("\n".join(f"a [thing] {number}" for number in range(200)))
    words = ("trace", "Shapes", "--prompts", "prompts.txt", "--out", "sweep", "--workers", "2")
    running = subprocess.Popen(
        [sys.executable, str(script), *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    shards = tmp_path / "sweep" / "shards"
    while running.poll() is None and not (shards.exists() and any(shards.glob("*.safetensors"))):
        time.sleep(0.05)
    sent(running.pid, number)
    # The pipes end when the last process that holds them does.
    _, err = running.communicate()
    assert running.returncode == (130 if number == signal.SIGINT else -number), err
    assert ("interrupted" in err and "Traceback" not in err) or number == signal.SIGKILL
    finished, missing, damaged = SweepFolder.open(tmp_path / "sweep").sorted_out()
    assert finished and missing and not damaged
