"""What every file of the repository keeps to, and that the package installs."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".js", ".ini", ".yml", ".yaml", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|tmp)/\w|[A-Za-z]:\\Users\\")
# The first is a test's own patterns; the licence is verbatim.
EXEMPT = {"tests/unit/test_repository.py", "LICENSE"}


def tracked_text_files() -> list[Path]:
    """Text files that git tracks or would track, so build products and downloads do not count."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.suffix in TEXT and path.is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_text_file_is_ascii_but_the_translated_help_pages():
    translated = {path for path in tracked_text_files() if path.match("web/docs/*/*.md")}
    files = [path for path in tracked_text_files() if path not in translated]
    assert len(files) > 30 and translated
    wrong = []
    for path in files:
        for number, line in enumerate(path.read_bytes().splitlines(), 1):
            if not line.isascii():
                wrong.append(f"{name_of(path)}:{number}")
    assert not wrong


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    wrong = []
    for path in tracked_text_files():
        if name_of(path) in EXEMPT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    assert not wrong


def test_pyproject_lists_the_packages_that_exist():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in ROOT.rglob("__init__.py") if ROOT / "build" not in path.parents}
    found = {".".join(("diff_quickfix", *folder.relative_to(ROOT).parts)) for folder in folders}
    assert set(config["packages"]) == found


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "__init__.py").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_requirements_and_pyproject_agree_and_ask_for_matplotlib_alone():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line.strip() and not line.startswith("#")]
    assert required == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"] == ["matplotlib"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with an editable installation, made from a copy: the build writes egg-info beside the sources."""
    source, target = tmp_path_factory.mktemp("source") / "diff-quickfix", tmp_path_factory.mktemp("site")
    for path in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0"):
        if path and (ROOT / path).is_file() and not path.endswith(".safetensors"):
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes((ROOT / path).read_bytes())
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--disable-pip-version-check",
            "--target",
            str(target),
            "--editable",
            str(source),
        ],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return target


def test_the_installation_has_the_shell(installed):
    (found,) = importlib.metadata.distributions(path=[str(installed)], name="diff-quickfix")
    scripts = {point.name: point.value for point in found.entry_points if point.group == "console_scripts"}
    assert scripts == {"diff-quickfix": "diff_quickfix.cli:main"}


def test_an_editable_installation_gives_the_kernels_without_comfyui(installed):
    code = (
        f"import site, sys; site.addsitedir({str(installed)!r}); import diff_quickfix.quickfix as q; "
        "assert 'comfy' not in sys.modules; print(q.__file__)"
    )
    # -I: neither PYTHONPATH nor the working folder can lend the package.
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()).parent.name == "quickfix"
    assert "source" in result.stdout
