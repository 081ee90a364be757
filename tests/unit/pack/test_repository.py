"""What every file of the repository keeps to, and that the package installs."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
TEXT = {".py", ".ipynb", ".md", ".toml", ".txt", ".json", ".js", ".ini", ".yml", ".yaml", ""}
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|Users|root|work|mnt|tmp)/\w|[A-Za-z]:\\Users\\")
# The first is a test's own patterns; the licence is verbatim.
EXEMPT = {"tests/unit/pack/test_repository.py", "LICENSE"}


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


def test_the_version_is_the_same_everywhere():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "__init__.py").read_text()
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_requirements_and_pyproject_agree_and_ask_for_matplotlib_alone():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    required = [line for line in lines if line.strip() and not line.startswith("#")]
    assert required == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"] == ["matplotlib"]
