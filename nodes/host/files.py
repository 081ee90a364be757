"""Where files lie: traces in ``causal_traces`` of ComfyUI's output folder, edits where LoRA loaders look."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ...output.files import inside

FOLDER = "causal_traces"
SUFFIX = ".trace.safetensors"
LORAS, LORA_SUFFIX = "loras", ".safetensors"


def traces_folder() -> Path:
    """The folder of trace files; it need not exist yet."""
    return Path(folder_paths.get_output_directory()) / FOLDER


def trace_path(name: str) -> Path:
    """The file of a trace by its name, with or without the suffix.

    Raises:
        ValueError: the name is empty, or leads out of the folder.
    """
    path = inside(traces_folder(), name, SUFFIX)
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


def shown_path(path: Path) -> str:
    """How a file is told to users: within ComfyUI's folder if it lies there, else whole."""
    base, whole = Path(folder_paths.base_path).resolve(), path.resolve()
    return (whole.relative_to(base) if whole.is_relative_to(base) else whole).as_posix()


def loras_folder() -> Path:
    """The folder that edits are saved to: ``output/loras``, else the first folder that ComfyUI's LoRA loaders read."""
    folders = folder_paths.get_folder_paths(LORAS)
    own = Path(folder_paths.get_output_directory()) / LORAS
    return own if any(Path(folder).resolve() == own.resolve() for folder in folders) else Path(folders[0])


def free_lora(prefix: str) -> tuple[str, Path]:
    """A name by which a LoRA loader knows a file that does not exist yet, ``prefix_00001`` and so on, and its path.

    Raises:
        ValueError: the name is empty, or leads out of the folder.
    """
    folder = loras_folder().resolve()
    start = inside(folder, prefix, LORA_SUFFIX)
    start.parent.mkdir(parents=True, exist_ok=True)
    prefix, number = start.relative_to(folder).as_posix().removesuffix(LORA_SUFFIX), 1
    while True:
        # A file of this name in another of the loaders' folders would stand in front of ours.
        name = f"{prefix}_{number:05}{LORA_SUFFIX}"
        if not (folder / name).exists() and folder_paths.get_full_path(LORAS, name) is None:
            return name, folder / name
        number += 1


def lora_files() -> list[str]:
    """Names of the safetensors files that LoRA loaders offer."""
    return [name for name in folder_paths.get_filename_list(LORAS) if name.endswith(LORA_SUFFIX)]


def lora_path(name: str) -> Path:
    """The file that a LoRA loader's name stands for; ComfyUI keeps it within the loaders' folders.

    Raises:
        ValueError: there is none.
    """
    path = folder_paths.get_full_path(LORAS, name)
    if path is None or not name.endswith(LORA_SUFFIX):
        raise ValueError(f"There is no LoRA file {name!r}. Put it into models/loras and press R to reload.")
    return Path(path)
