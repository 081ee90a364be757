"""A diffusers folder copied with an edit in its text encoder or its image model.

Where asked for, the other files of the copy are hard links to the originals, so that it costs no more disk than the
edited part; whoever writes *into* such a file, rather than replacing it, then changes both. Programs that save models
replace files.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ...output.files import linked
from .tensor_file import TensorFile
from .text_encoder_file import ModelFileError

# Formats of weights that cannot be patched; beside patched ones they would bring the concept back.
_PICKLED = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class FolderCopy:
    """What was done.

    Attributes:
        patched: files with the edit, relative to the folder.
        left_out: files that the copy lacks: pickled weights of the edited part.
        written: bytes on disk that the copy has for itself.
        linked: bytes that it shares with the original by hard links.
    """

    patched: tuple[str, ...]
    left_out: tuple[str, ...]
    written: int
    linked: int


def check_folder(folder: Path, target: Path) -> None:
    """Refuse a target for a copy of a folder.

    Raises:
        FileExistsError: there is something of this name.
        ModelFileError: it lies in the folder itself; the folder above it does not exist.
    """
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"{target} exists already. Folders are never overwritten; choose another name.")
    if target.resolve().is_relative_to(folder.resolve()):
        raise ModelFileError(f"{target} lies in {folder} itself. Choose a name outside of it.")
    if not target.absolute().parent.is_dir():
        raise ModelFileError(f"There is no folder {target.absolute().parent}.")


def copy_folder(
    home: Path,
    deltas: Mapping[str, torch.Tensor],
    folder: Path,
    target: Path,
    *,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> FolderCopy:
    """Copy a model's folder with an edit in every file of the edited weights (fp32, fp16).

    The original stays as it is, and the copy appears whole or not at all.

    Args:
        home: the folder below it that holds the edited weights.
        deltas: what is added to them, by the names that the files call them; each is asked for when it is written.
        link: share the other files by hard links where the file system knows them.
        progress: called with (files done, all files); an exception it raises ends the work.

    Raises:
        FileExistsError, ModelFileError: see :func:`check_folder`.
        TensorFileError: weights that cannot be patched.
        OSError: the copy cannot be written.
    """
    check_folder(folder, target)
    files = sorted(files_under(folder))
    left_out = [path for path in files if path.parent == home and path.suffix in _PICKLED]
    found = (TensorFile(path) for path in files if path.parent == home and path.suffix == ".safetensors")
    weights = {file.path: file for file in found if not file.places.keys().isdisjoint(deltas)}
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    own = common = 0
    try:
        part.mkdir()
        for number, path in enumerate(files, 1):
            copy = part / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path in weights:
                weights[path].copy_with(copy, deltas)
                own += copy.stat().st_size
            elif path not in left_out:
                size = path.stat().st_size
                # A model from a hub's cache is a folder of symbolic links; the files are meant.
                shared = link and linked(path.resolve(), copy)
                if not shared:
                    shutil.copyfile(path, copy)
                own, common = (own, common + size) if shared else (own + size, common)
            if progress is not None:
                progress(number, len(files))
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    told = [tuple(path.relative_to(folder).as_posix() for path in paths) for paths in (sorted(weights), left_out)]
    return FolderCopy(told[0], told[1], own, common)


def files_under(folder: Path) -> Iterator[Path]:
    """All files under a folder, through links to other folders, each folder once."""
    seen = set()
    for here, names, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            names.clear()
            continue
        seen.add(real)
        yield from (path for path in (Path(here, name) for name in files) if path.is_file())
