"""The built-in lists of prompts and names, read from the files in ``data``.

``EVERYDAY`` is what every report measures damage on. ``PRESERVED`` is the preserve set of the guarded preset: plain
things, colors, counts, places, grounds, and well-known styles; a style that is edited is left out of it. The two share
no prompt but the empty one, the negative prompt that nearly every picture is made with. ``PRESERVE_SETS`` are sets to
choose by name; none of them holds a prompt of ``EVERYDAY`` but the empty one.

``KNOWN_NAMES`` are artists, things, looks, colors and captions that an edit may move by mistake. ``NAMES_ALIKE`` are
lists of names of one kind, and ``NAMES_OF_KIND`` those to look at for a concept that is in none of them.
``HELD_OUT_TEMPLATES`` are captions by kind of concept that no edit is computed from: other sentences and ways of saying
the same, with the concept at the front, in the middle and at the end. ``PLAIN_WORDS`` say as little as a concept of
their kind can.
"""

from __future__ import annotations

import json
from pathlib import Path

from ...text.prompts import PromptError
from .prompt_lists import prompts_of_text

_DATA = Path(__file__).parent / "data"


def _lines(name: str) -> tuple[str, ...]:
    return prompts_of_text((_DATA / name).read_text(encoding="utf-8"))


def _lists(name: str) -> dict[str, tuple[str, ...]]:
    named = json.loads((_DATA / name).read_text(encoding="utf-8"))
    return {key: tuple(prompts) for key, prompts in named.items()}


EVERYDAY = _lines("everyday.txt")
# Short ones of EVERYDAY, run through all layers.
FINAL_CAPTIONS = _lines("final_captions.txt")
PRESERVED = _lines("guarded.txt")
PRESERVE_SETS = _lists("preserve_sets.json")
ARTISTS = _lines("artists.txt")
THINGS, LOOKS, COLORS = _lines("things.txt"), _lines("looks.txt"), _lines("colors.txt")
KNOWN_NAMES = tuple(dict.fromkeys((*ARTISTS, *THINGS, *LOOKS, *COLORS, *_lines("captions.txt"))))
NAMES_ALIKE = (ARTISTS, THINGS, LOOKS, COLORS)
NAMES_OF_KIND = {"style": ARTISTS, "object": THINGS, "fact": THINGS, "custom": KNOWN_NAMES}
HELD_OUT_TEMPLATES = _lists("held_out_templates.json")
PLAIN_WORDS = _lists("plain_words.json")


def preserve_set(name: str) -> tuple[str, ...]:
    """A built-in set of :data:`PRESERVE_SETS` by name.

    Raises:
        PromptError: there is none of this name.
    """
    if name not in PRESERVE_SETS:
        raise PromptError(f"Unknown preserve set {name!r}; expected one of: {'; '.join(PRESERVE_SETS)}.")
    return PRESERVE_SETS[name]
