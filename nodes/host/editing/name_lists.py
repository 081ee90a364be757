"""Lists of names that guard an edit, as nodes call them, and where their Gram matrices are kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import folder_paths

from ....quickfix import BROAD, NO_BREADTH, SHORT, EditSettings, keep_grams_in

NO_LIST = "none"
NAME_LISTS = {NO_LIST: NO_BREADTH, "short": SHORT, "broad": BROAD}


def guarded_by_names(settings: EditSettings, name: str) -> EditSettings:
    """Settings with a list of :data:`NAME_LISTS`; its Gram matrices are kept in ComfyUI's user folder."""
    if NAME_LISTS[name]:
        keep_grams_in(Path(folder_paths.get_user_directory()) / "diff_quickfix" / "grams")
    return dataclasses.replace(settings, breadth=NAME_LISTS[name])
