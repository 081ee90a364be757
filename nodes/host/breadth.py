"""Lists of names that guard an edit, as nodes offer them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import folder_paths

from ...quickfix import EditSettings, Guarded, Tower, guarded_by, keep_grams_in
from ...text.prompts import PromptTokenizer
from .objects import Clip
from .progress import say

Progress = Callable[[int, int], None]


def guarded_by_names(
    settings: EditSettings,
    choice: str,
    states: tuple[Tower, PromptTokenizer],
    kinds: Collection[str],
    clip: Clip,
) -> Guarded:
    """Settings with a list of those that :func:`guarded_by` knows, whose Gram matrices are kept.

    Args:
        states: what is edited, and what cuts its prompts.
        kinds: of the concepts.
        clip: whose text encoders give the keys.
    """
    guarded = guarded_by(settings, choice, *states, kinds, (clip.cond_stage_model,))
    if guarded.settings.breadth:
        keep_grams()
    return guarded


def keep_grams() -> None:
    """Keep Gram matrices of lists of names in ComfyUI's user folder from now on."""
    keep_grams_in(Path(folder_paths.get_user_directory()) / "diff_quickfix" / "grams")


def saying(progress: Progress | None) -> Progress:
    """A progress that says on the running node how many captions of names are read, before the first of them is."""

    def show(done: int, total: int) -> None:
        if not done:
            say(f"reading {total:,} captions of names, once for this text encoder")
        if progress is not None:
            progress(done, total)

    return show
