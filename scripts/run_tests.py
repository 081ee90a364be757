"""Run the checks: style, types, and the tiers of tests against both ComfyUI versions; end with one summary line.

Before it, a table says what each took: seconds by the clock, and seconds of processor time, which other work on the
machine changes less.

Runs inside the environment of scripts/bootstrap.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bootstrap import COMFYUI, ROOT, comfyui_folder


@dataclass
class Outcome:
    name: str
    passed: int
    failed: int
    seconds: float
    processor: float


# By module name, seen through the link on PYTHONPATH: by path, mypy names the package after the clone's folder, and
# refuses one called diff-quickfix.
PACKAGES = (
    "text",
    "output",
    "families",
    "quickfix",
    "tracing",
    "pipelines",
    "demo_model",
    "sweeps",
    "reproduce",
    "cli",
    "nodes.host",
    "benchmarks",
)
TYPED = tuple(word for name in PACKAGES for word in ("-p", f"diff_quickfix.{name}"))


@dataclass(frozen=True)
class Ended:
    """A command at its end: its exit status, what it printed, and the processor time of it and of all that it ran."""

    status: int
    said: str
    processor: float


# Passed, failed, and the command.
Result = tuple[int, int, Ended]


@dataclass(frozen=True)
class Check:
    """A command that passes when it exits with 0."""

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT

    def run(self, threads: int) -> Result:
        done = captured(self.command, self.folder, threads)
        return int(not done.status), int(done.status != 0), done


@dataclass(frozen=True)
class Tier:
    """A folder of tests, or those ``marked`` so, against one ComfyUI; a run without any test has failed, and so has a
    skipped test."""

    folder: str
    comfyui: str
    marked: str = ""

    @property
    def name(self) -> str:
        return f"{self.folder}, ComfyUI {COMFYUI[self.comfyui].version}"

    def run(self, threads: int) -> Result:
        root = comfyui_folder(Path(os.environ["DIFF_QUICKFIX_CACHE"]), self.comfyui) / "ComfyUI"
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch) / "result.xml"
            pytest = (sys.executable, "-m", "pytest", f"tests/{self.folder}", "-m", self.marked)
            done = captured((*pytest, f"--junit-xml={result}"), ROOT, threads, COMFYUI_PATH=str(root))
            suite = xml.parse(result).getroot().find("testsuite") if result.exists() else None
        found = suite.attrib if suite is not None else {}
        failed = sum(int(found.get(kind, 0)) for kind in ("failures", "errors", "skipped"))
        passed = int(found.get("tests", 0)) - failed
        if (done.status and not failed) or not passed:
            failed += 1
        return passed, failed, done


# What it finds out about torch and the other libraries is kept for all clones: two minutes of one core.
FOUND = Path(os.environ["DIFF_QUICKFIX_CACHE"]) / "mypy"
MYPY = (sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir")
LINT = (
    Check("ruff", (sys.executable, "-m", "ruff", "check", ".")),
    Check("ruff, format", (sys.executable, "-m", "ruff", "format", "--check", ".")),
    Check("mypy", (*MYPY, str(FOUND / "packages"), *TYPED), Path(os.environ["PYTHONPATH"])),
    Check(
        "mypy, scripts",
        (*MYPY, str(FOUND / "scripts"), "--explicit-package-bases", "bootstrap.py", "run_tests.py"),
        ROOT / "scripts",
    ),
    Check("tsc, the page's scripts", ("node", os.environ["TYPESCRIPT_PATH"], "--project", "scripts/page_types")),
)
# The longest first, so that two lanes end at about the same time.
TIERS = (
    Tier("browser", "newest"),
    Tier("e2e", "newest"),
    Tier("e2e", "floor", "not newest"),
    Tier("comfyui", "newest"),
    Tier("comfyui", "floor", "not newest"),
    Tier("device", "newest"),
    Tier("device", "floor", "not newest"),
    Tier("unit", "newest"),
)


def captured(command: Sequence[str], folder: Path, threads: int, **variables: str) -> Ended:
    """Run a command with so many threads; its output, errors among it, is kept."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    with process.stdout as pipe:
        said = pipe.read().decode(errors="replace")
    if not hasattr(os, "wait4"):  # Windows
        return Ended(process.wait(), said, 0.0)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return Ended(process.returncode, said, usage.ru_utime + usage.ru_stime)


def run_one(job: Check | Tier, threads: int) -> Outcome:
    """Run a job, and print what it printed at its end."""
    print(f"\n=== {job.name}: started", flush=True)
    started = time.monotonic()
    passed, failed, done = job.run(threads)
    print(f"\n=== {job.name}: ended\n{done.said}", end="", flush=True)
    return Outcome(job.name, passed, failed, time.monotonic() - started, done.processor)


def run_all(jobs: Sequence[Check | Tier]) -> list[Outcome]:
    """Run jobs, two side by side where there are two cores: much of a tier waits for servers and for the browser."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lanes = min(2, cores)
    with ThreadPoolExecutor(lanes) as pool:
        try:
            return list(pool.map(lambda job: run_one(job, cores // lanes), jobs))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt ends the running jobs; do not start the others
            raise


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    outcomes = run_all(LINT if arguments == ["lint"] else (*LINT[:2], *TIERS, *LINT[2:]))
    print(f"\n=== summary\n{'':32} {'passed':>6} {'failed':>6} {'clock':>7} {'processor':>9}")
    for one in outcomes:
        took = f"{one.seconds:5.0f} s {one.processor:7.0f} s"
        print(f"{one.name:32} {one.passed:6} {one.failed:6} {took}  {'FAILED' if one.failed else 'ok'}")
    together = sum(one.processor for one in outcomes)
    print(f"{'all, side by side':32} {'':13} {time.monotonic() - started:5.0f} s {together:7.0f} s")
    passed, failed = (sum(getattr(outcome, key) for outcome in outcomes) for key in ("passed", "failed"))
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
