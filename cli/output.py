"""Where an edit goes from the shell: a LoRA file, a patched copy of the model, and what is said about it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..quickfix import (
    PRECISIONS,
    EditReport,
    FolderCopy,
    ShardedTensors,
    WeightEdit,
    check_folder,
    copy_folder,
    files_under,
    is_edit_file,
    save_edit,
    to_json,
)
from .models import OpenModel
from .progress import progress


def check_targets(model: OpenModel, options: argparse.Namespace) -> None:
    """Refuse, before any work, what could not be written at its end, or would be written over something needed.

    Raises:
        ValueError: a file of MODEL, a folder, a file that exists (without --overwrite), no such folder, or one name for
            two files.
    """
    if options.out and options.apply and _same_place(Path(options.out), Path(options.apply)):
        raise ValueError(f"--out and --apply both name {options.apply}; choose two names.")
    path_of_model = Path(options.model)
    read = [path_of_model, *map(Path, options.text_encoder)]
    own = [model.file.path, *(file for path in read for file in (files_under(path) if path.is_dir() else [path]))]
    for path in filter(None, (options.out, options.apply)):
        if path == options.apply and _is_folder(options):
            check_folder(path_of_model, Path(path))
        elif path == options.apply and isinstance(model.file, ShardedTensors):
            raise ValueError(f"The {model.part} lies in several files; name a folder for --apply, not {path}.")
        else:
            _check_file(Path(path), own, options.overwrite)


def write_edit(
    model: OpenModel, edit: WeightEdit, report: EditReport, options: argparse.Namespace, way: str = ""
) -> None:
    """Save an edit and patch the model as the options say, and print the report.

    Args:
        way: a line on how the model was edited, printed before the report.
    """
    said = []
    if options.out:
        save_edit(
            edit,
            options.out,
            naming=options.naming,
            energy=options.energy,
            dtype=PRECISIONS[options.dtype],
            overwrite=options.overwrite,
        )
        said.append(f"wrote {options.out} ({_size(options.out)})")
    if options.apply:
        said.append(_apply(model, edit, options))
    if options.json:
        print_json(
            described(edit)
            | {
                "model": options.model,
                **model.described(edit),
                "report": report.as_dict(),
                "out": options.out,
                "apply": options.apply,
            }
        )
        return
    print("\n".join([*filter(None, [way]), report.text(), *said]))
    if not said:
        print("nothing was written; --out saves the edit, --apply a patched copy of the checkpoint")


def described(edit: WeightEdit) -> dict[str, Any]:
    """What an edit is, ready for JSON."""
    return {
        "encoder": edit.encoder,
        "weight": edit.weight_name,
        "rank": edit.rank,
        "base": edit.base,
        "concepts": to_json(edit.concepts),
        "settings": to_json(edit.settings),
    }


def print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields, indent=2))


def _is_folder(options: argparse.Namespace) -> bool:
    """Whether --apply asks for a whole folder, not for the edited part's file alone."""
    return Path(options.model).is_dir() and not options.apply.endswith(".safetensors")


def _same_place(one: Path, other: Path) -> bool:
    """Whether two paths, of files that may not exist yet, are one."""
    places = [os.path.normcase(path.resolve()) for path in (one, other)]
    return places[0] == places[1] or (one.exists() and other.exists() and one.samefile(other))


def _check_file(path: Path, own: Sequence[Path], overwrite: bool) -> None:
    """Refuse a file that cannot or must not be written; ``own`` are the files of the model."""
    if path.exists() and any(path.samefile(file) for file in own) and not is_edit_file(path):
        raise ValueError(f"{path} is a file of the model itself, which stays as it is. Choose another name.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already. Choose another name, or pass --overwrite.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {path.absolute().parent}.")


def _apply(model: OpenModel, edit: WeightEdit, options: argparse.Namespace) -> str:
    """Write the patched copy; returns what to say about it."""
    told, deltas = progress("copying", options.quiet), model.deltas(edit, options.strength)
    folder = Path(options.model)
    if _is_folder(options):
        home = model.file.path.parent
        made = copy_folder(home, deltas, folder, Path(options.apply), link=options.link, progress=told)
        return _folder_said(options.apply, made)
    model.file.copy_with(options.apply, deltas, overwrite=options.overwrite, progress=told)
    alone = f", the {model.part} alone; name a folder for the whole model" if folder.is_dir() else ""
    return f"wrote {options.apply} ({_size(options.apply)}{alone})"


def _folder_said(path: str, made: FolderCopy) -> str:
    shared = f", and {made.linked:,} shared with the original by hard links" if made.linked else ""
    said = f"wrote {path} ({made.written:,} bytes{shared}); the edit is in {', '.join(made.patched)}"
    if made.left_out:
        said += f"; left out, since pickled weights cannot be patched: {', '.join(made.left_out)}"
    return said


def _size(path: str) -> str:
    return f"{Path(path).stat().st_size:,} bytes"
