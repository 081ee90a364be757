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
PACKAGES = ("quickfix", "tracing", "cli", "demo_model", "benchmarks")
MODULES = ("prompts", "files", "vocabulary", "drawing")
TYPED = (
    *(word for name in MODULES for word in ("-m", f"diff_quickfix.{name}")),
    *(word for name in PACKAGES for word in ("-p", f"diff_quickfix.{name}")),
)


@dataclass(frozen=True)
class Tier:
    """A folder of tests against one ComfyUI."""

    folder: str
    comfyui: str

    @property
    def label(self) -> str:
        return f"{self.folder}, ComfyUI {COMFYUI[self.comfyui].version}"


# The longest first, so that two lanes end at about the same time.
TIERS = (
    Tier("browser", "newest"),
    *(Tier(folder, comfyui) for folder in ("e2e", "comfyui") for comfyui in COMFYUI),
    Tier("unit", "newest"),
)


def check(name: str, *command: str, folder: Path = ROOT) -> Outcome:
    """A command that passes when it exits with 0."""
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    code = subprocess.call(command, cwd=folder)
    return Outcome(name, int(code == 0), int(code != 0), time.monotonic() - started)


def run_tier(tier: Tier, threads: int) -> Outcome:
    """Run a tier with so many threads; a run without any test has failed, and so has a skipped test."""
    print(f"\n=== {tier.label}: started", flush=True)
    root = comfyui_folder(Path(os.environ["DIFF_QUICKFIX_CACHE"]), tier.comfyui) / "ComfyUI"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.xml"
        run = subprocess.run(
            [sys.executable, "-m", "pytest", f"tests/{tier.folder}", f"--junit-xml={result}"],
            cwd=ROOT,
            env={**os.environ, "COMFYUI_PATH": str(root), "OMP_NUM_THREADS": str(threads)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        suite = xml.parse(result).getroot().find("testsuite") if result.exists() else None
    found = suite.attrib if suite is not None else {}
    failed = sum(int(found.get(kind, 0)) for kind in ("failures", "errors", "skipped"))
    passed = int(found.get("tests", 0)) - failed
    if (run.returncode and not failed) or not passed:
        failed += 1
    print(f"\n=== {tier.label}: ended\n{run.stdout}", end="", flush=True)
    return Outcome(tier.label, passed, failed, time.monotonic() - started)


def run_tiers(tiers: Sequence[Tier]) -> list[Outcome]:
    """Run tiers, two side by side where there are two cores: much of a tier waits for servers and for the browser."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    lanes = min(2, cores)
    with ThreadPoolExecutor(lanes) as pool:
        try:
            return list(pool.map(lambda tier: run_tier(tier, cores // lanes), tiers))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # an interrupt ends the running tiers; do not start the others
            raise


def main(arguments: list[str]) -> int:
    mypy = (sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"))
    outcomes = [
        check("ruff", sys.executable, "-m", "ruff", "check", "."),
        check("mypy", *mypy, *TYPED, folder=Path(os.environ["PYTHONPATH"])),
        check(
            "mypy, scripts", *mypy, "--explicit-package-bases", "bootstrap.py", "run_tests.py", folder=ROOT / "scripts"
        ),
    ]
    if arguments != ["lint"]:
        outcomes += run_tiers(TIERS)
    print("\n=== summary")
    for outcome in outcomes:
        mark = "FAILED" if outcome.failed else "ok"
        print(f"{outcome.name:32} {outcome.passed:4} passed {outcome.failed:3} failed {outcome.seconds:6.0f} s  {mark}")
    passed, failed = (sum(getattr(outcome, key) for outcome in outcomes) for key in ("passed", "failed"))
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
