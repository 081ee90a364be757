"""Text files that a user put into ComfyUI's input folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import folder_paths

SUFFIX = ".txt"
# What a menu of files offers for none of them.
NO_FILE = "none"
# Ten thousand prompts are about half of it.
_LARGEST = 2**20


def text_files(suffixes: Sequence[str] = (SUFFIX,)) -> list[str]:
    """Names of the files with some suffixes in the input folder, sorted."""
    folder = Path(folder_paths.get_input_directory())
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and path.is_file()
    )


def input_path(name: str, suffixes: Sequence[str] = (SUFFIX,)) -> Path:
    """The file of a name in the input folder.

    Raises:
        ValueError: the name leads out of the folder or has another suffix; there is no such file.
    """
    folder = Path(folder_paths.get_input_directory()).resolve()
    path = (folder / name).resolve() if "\0" not in name else folder
    if not path.is_relative_to(folder) or path.suffix.lower() not in suffixes:
        raise ValueError(
            f"{name!r} names no text file in ComfyUI's input folder. Name a {' or '.join(suffixes)} file there."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {name!r} in ComfyUI's input folder. Put it there and reload the page (R).")
    return path


def read_text_file(name: str) -> str:
    """The contents of a text file in the input folder.

    Raises:
        ValueError: as :func:`input_path`; the file is too large or not UTF-8.
    """
    path = input_path(name)
    if path.stat().st_size > _LARGEST:
        raise ValueError(f"The file {name!r} is larger than 1 MiB; expected a list of prompts, one on each line.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"The file {name!r} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error


def modified(name: str) -> float:
    """When a text file was last changed; 0 where there is none, and for :data:`NO_FILE`."""
    path = Path(folder_paths.get_input_directory()) / name
    return path.stat().st_mtime if path.is_file() else 0.0
