"""Lists of names that guard an edit, as nodes call them, and where their Gram matrices are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import folder_paths

from ....quickfix import BROAD, NO_BREADTH, SHORT, EditSettings, keep_grams_in

NO_LIST = "none"
NAME_LISTS = {NO_LIST: NO_BREADTH, "short": SHORT, "broad": BROAD}


def keep_grams() -> None:
    """Keep Gram matrices in ComfyUI's user folder from now on."""
    keep_grams_in(Path(folder_paths.get_user_directory()) / "diff_quickfix" / "grams")


def guarded_by_names(settings: EditSettings, name: str) -> EditSettings:
    """Settings with a list of :data:`NAME_LISTS`, whose Gram matrices are kept."""
    if NAME_LISTS[name]:
        keep_grams()
    return dataclasses.replace(settings, breadth=NAME_LISTS[name])
