"""Where trace files lie: ``causal_traces`` in ComfyUI's output folder, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import folder_paths

FOLDER = "causal_traces"
SUFFIX = ".trace.safetensors"


def traces_folder() -> Path:
    """The folder of trace files; it need not exist yet."""
    return Path(folder_paths.get_output_directory()) / FOLDER


def trace_path(name: str) -> Path:
    """The file of a trace by its name, with or without the suffix.

    Raises:
        ValueError: the name is empty, or leads out of the folder.
    """
    folder = traces_folder().resolve()
    name = name.strip()
    path = (folder / (name.removesuffix(SUFFIX) + SUFFIX)).resolve()
    if not name or not path.is_relative_to(folder) or "\0" in name:
        raise ValueError(f"{name!r} names no file in the folder {FOLDER} of ComfyUI's output. Give a plain file name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def trace_files() -> list[str]:
    """Names of the trace files there are, without the suffix, sorted."""
    folder = traces_folder()
    return sorted(p.relative_to(folder).as_posix().removesuffix(SUFFIX) for p in folder.rglob("*" + SUFFIX))


def free_path(prefix: str) -> Path:
    """The first path ``prefix_00001`` and so on that does not exist yet."""
    trace_path(prefix)
    number = 1
    while (path := trace_path(f"{prefix}_{number:05}")).exists():
        number += 1
    return path
