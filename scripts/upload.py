"""What the Comfy Registry gets: the files that git tracks, without those that .comfyignore names.

    python3 scripts/upload.py            list them with their sizes
    python3 scripts/upload.py FOLDER     copy them into an empty folder, as an installed pack has them

Without git, the files of the folder count that .gitignore does not name. Standard library only.
"""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent


def uploaded_files(root: Path = ROOT) -> list[str]:
    """The files by their paths, with /. Files that git would track count, so that what is new is seen before a commit.

    Raises:
        ValueError: .comfyignore holds a pattern that is more than a path.
    """
    left_out = left_out_paths(root)
    files = _files_of_git(root)
    if files is None:
        files = _files_of_folder(root)
    return sorted(name for name in files if not is_under(name, left_out) and (root / name).is_file())


def left_out_paths(root: Path) -> list[str]:
    """The paths that .comfyignore names; those of folders end in /."""
    found = _patterns(root / ".comfyignore")
    unclear = [pattern for pattern in found if set(pattern) & set("*?[!\\") or pattern.startswith("/")]
    if unclear:
        raise ValueError(f".comfyignore holds {', '.join(unclear)}; expected plain paths, folders with / at their end.")
    return found


def is_under(name: str, paths: Iterable[str]) -> bool:
    """Whether a file is one of some paths, or in a folder of theirs."""
    return any(name == path or (path.endswith("/") and name.startswith(path)) for path in paths)


def copy_upload(folder: Path, root: Path = ROOT) -> list[str]:
    """Copy the files into a folder; returns their paths."""
    files = uploaded_files(root)
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    return files


def _patterns(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _files_of_git(root: Path) -> list[str] | None:
    """None where there is no git, or the folder is no repository's root."""
    if not (root / ".git").exists():
        return None
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return [name for name in listed.stdout.split("\0") if name]


def _files_of_folder(root: Path) -> list[str]:
    ignored = [pattern.rstrip("/") for pattern in [".git/", *_patterns(root / ".gitignore")]]
    return [
        name
        for path in root.rglob("*")
        if path.is_file()
        for name in [path.relative_to(root).as_posix()]
        if not any(fnmatch.fnmatch(part, pattern) for part in PurePosixPath(name).parts for pattern in ignored)
    ]


def main(arguments: list[str]) -> int:
    if arguments:
        print(f"{len(copy_upload(Path(arguments[0])))} files")
        return 0
    sizes = {name: (ROOT / name).stat().st_size for name in uploaded_files()}
    for name, size in sizes.items():
        print(f"{size:>10,}  {name}")
    print(f"{sum(sizes.values()):>10,}  in {len(sizes)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
