"""Files that appear whole or not at all, and names that cannot lead out of a folder. Standard library only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to; when the block ends well, the finished file takes ``path``'s name.

    Whatever happens no half-written file is left, and an existing file stays as it was unless ``overwrite`` is set.

    Raises:
        FileExistsError: there is a file of this name already, or one has come while the block ran.
        OSError: the folder does not exist, or cannot be written to.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path.name} exists already. Choose another name; nothing was written.")
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        # Some writers (safetensors) put a file in its place that nobody else may read.
        part.chmod(mode)
        if overwrite or not linked(part, path):
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def inside(folder: Path, name: str, suffix: str) -> Path:
    """The file in ``folder``, or in a folder under it, that a name from a user stands for.

    Args:
        name: with or without the suffix; "/" leads into subfolders.

    Raises:
        ValueError: the name is empty, or leads out of the folder.
    """
    folder, stem = folder.resolve(), name.strip().removesuffix(suffix)
    if stem and "\0" not in stem and not stem.endswith("/"):
        path = (folder / (stem + suffix)).resolve()
        if path.is_relative_to(folder) and path != folder:
            return path
    raise ValueError(f"{name!r} names no file in the folder {folder.name}. Give a plain file name.")


def linked(file: Path, path: Path) -> bool:
    """Make ``path``, unless it exists (FileExistsError), a hard link to a file; False where there are no such links."""
    try:
        os.link(file, path)
    except FileExistsError:
        raise FileExistsError(f"{path.name} exists already. Choose another name; nothing was written.") from None
    except OSError:
        return False
    return True
