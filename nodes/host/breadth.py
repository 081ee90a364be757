"""Lists of names that guard an edit, as nodes offer them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import folder_paths
import torch

from ...quickfix import (
    BROAD,
    NO_BREADTH,
    SHORT,
    ConceptEdit,
    EditSettings,
    Tower,
    default_breadth,
    keep_grams_in,
)
from ...text.prompts import PromptTokenizer
from .objects import Clip
from .progress import say

Progress = Callable[[int, int], None]
AUTO_LIST, NO_LIST = "auto", "none"
NAME_LISTS = {AUTO_LIST: None, NO_LIST: NO_BREADTH, "short": SHORT, "broad": BROAD}
"""What nodes call the lists; None stands for that of :func:`~.quickfix.breadth_rules.default_breadth`."""
# Parts of a text encoder that read pictures.
_OF_PICTURES = ("visual", "vision")


class Guarded(NamedTuple):
    """Settings with a list of names, and a line on why it is not the one that is taken by default; or nothing."""

    settings: EditSettings
    note: str


def guarded_by_names(
    settings: EditSettings,
    choice: str,
    states: tuple[Tower, PromptTokenizer],
    concepts: Sequence[ConceptEdit],
    clip: Clip,
) -> Guarded:
    """Settings with a list of :data:`NAME_LISTS`, whose Gram matrices are kept.

    Args:
        states: what is edited, and what cuts its prompts.
        clip: whose text encoders give the keys.
    """
    name, note = NAME_LISTS[choice], ""
    if name is None:
        tower, tokenizer = states
        # The first layers of a text encoder cost little.
        weights = linear_weights(clip.cond_stage_model) if tower.identity else 0
        found = default_breadth(tower, tokenizer, concepts, weights)
        name, note = found.list, found.text()
    if name:
        keep_grams()
    return Guarded(dataclasses.replace(settings, breadth=name), note)


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


def linear_weights(model: torch.nn.Module) -> int:
    """How many weights the linear maps of some text encoders have, of whatever type they are stored in; without what
    reads pictures."""
    return sum(
        module.in_features * module.out_features
        for name, module in model.named_modules()
        if isinstance(getattr(module, "in_features", None), int)
        and isinstance(getattr(module, "out_features", None), int)
        and not any(part.startswith(_OF_PICTURES) for part in name.split("."))
    )
