"""Run the checks: style, types, and the three tiers of tests against both ComfyUI versions; end with one summary line.

Runs inside the environment of scripts/bootstrap.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
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


def check(name: str, *command: str, folder: Path = ROOT) -> Outcome:
    """A command that passes when it exits with 0."""
    print(f"\n=== {name}", flush=True)
    started = time.monotonic()
    code = subprocess.call(command, cwd=folder)
    return Outcome(name, int(code == 0), int(code != 0), time.monotonic() - started)


def tier(name: str, folder: str, comfyui: str) -> Outcome:
    """A folder of tests against one ComfyUI; a run without any test has failed, and so has a skipped test."""
    label = f"{name}, ComfyUI {COMFYUI[comfyui].version}"
    print(f"\n=== {label}", flush=True)
    root = comfyui_folder(Path(os.environ["DIFF_QUICKFIX_CACHE"]), comfyui) / "ComfyUI"
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "result.xml"
        code = subprocess.call(
            [sys.executable, "-m", "pytest", f"tests/{folder}", f"--junit-xml={result}"],
            cwd=ROOT,
            env={**os.environ, "COMFYUI_PATH": str(root)},
        )
        suite = xml.parse(result).getroot().find("testsuite") if result.exists() else None
    found = suite.attrib if suite is not None else {}
    failed = sum(int(found.get(kind, 0)) for kind in ("failures", "errors", "skipped"))
    passed = int(found.get("tests", 0)) - failed
    if (code and not failed) or not passed:
        failed += 1
    return Outcome(label, passed, failed, time.monotonic() - started)


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
        outcomes.append(tier("unit", "unit", "newest"))
        outcomes += [tier(name, name, comfyui) for name in ("comfyui", "e2e") for comfyui in COMFYUI]
    print("\n=== summary")
    for outcome in outcomes:
        mark = "FAILED" if outcome.failed else "ok"
        print(f"{outcome.name:32} {outcome.passed:4} passed {outcome.failed:3} failed {outcome.seconds:6.0f} s  {mark}")
    passed, failed = (sum(getattr(outcome, key) for outcome in outcomes) for key in ("passed", "failed"))
    print(f"\n{passed} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
