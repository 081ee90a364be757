"""Run the checks: style, types, and the tiers of tests against both ComfyUI versions; end with one summary line.

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


# By module name, seen through the link on PYTHONPATH: by path, mypy names the package after the clone's folder, and
# refuses one called diff-quickfix.
PACKAGES = ("text", "output", "families", "quickfix", "tracing", "cli", "demo_model", "nodes.host", "benchmarks")
TYPED = tuple(word for name in PACKAGES for word in ("-p", f"diff_quickfix.{name}"))


# Passed, failed, and what was printed.
Result = tuple[int, int, str]


@dataclass(frozen=True)
class Check:
    """A command that passes when it exits with 0."""

    name: str
    command: tuple[str, ...]
    folder: Path = ROOT

    def run(self, threads: int) -> Result:
        done = captured(self.command, self.folder, threads)
        return int(not done.returncode), int(done.returncode != 0), done.stdout


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
        if (done.returncode and not failed) or not passed:
            failed += 1
        return passed, failed, done.stdout


MYPY = (sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"))
LINT = (
    Check("ruff", (sys.executable, "-m", "ruff", "check", ".")),
    Check("ruff, format", (sys.executable, "-m", "ruff", "format", "--check", ".")),
    Check("mypy", (*MYPY, *TYPED), Path(os.environ["PYTHONPATH"])),
    Check("mypy, scripts", (*MYPY, "--explicit-package-bases", "bootstrap.py", "run_tests.py"), ROOT / "scripts"),
)
# The longest first, so that two lanes end at about the same time.
TIERS = (
    Tier("browser", "newest"),
    Tier("e2e", "newest"),
    Tier("e2e", "floor", "not newest"),
    Tier("comfyui", "newest"),
    Tier("comfyui", "floor", "not newest"),
    Tier("unit", "newest"),
)


def captured(command: Sequence[str], folder: Path, threads: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with so many threads; its output, errors among it, is kept."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def run_one(job: Check | Tier, threads: int) -> Outcome:
    """Run a job, and print what it printed at its end."""
    print(f"\n=== {job.name}: started", flush=True)
    started = time.monotonic()
    passed, failed, said = job.run(threads)
    print(f"\n=== {job.name}: ended\n{said}", end="", flush=True)
    return Outcome(job.name, passed, failed, time.monotonic() - started)


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
    outcomes = run_all(LINT if arguments == ["lint"] else (*LINT[:2], *TIERS, *LINT[2:]))
    print("\n=== summary")
    for outcome in outcomes:
        mark = "FAILED" if outcome.failed else "ok"
        print(f"{outcome.name:32} {outcome.passed:4} passed {outcome.failed:3} failed {outcome.seconds:6.0f} s  {mark}")
    passed, failed = (sum(getattr(outcome, key) for outcome in outcomes) for key in ("passed", "failed"))
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
