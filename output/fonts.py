"""Fonts for labels in any script: Matplotlib's own, and those that the machine has for what that one lacks."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

PLACEHOLDER = "\N{WHITE SQUARE}"
"""Stands in a label for a character that no font has."""
_WEIGHTS = {"normal", "regular", "book", "400"}


def font_for(text: str, size: int) -> tuple[FreeTypeFont, str, str]:
    """The font that draws most of a text.

    Matplotlib's DejaVu Sans (Latin, Greek, Cyrillic, Arabic and others) where it has all characters, else of the fonts
    installed on the machine the one that has the most of them (Chinese, Japanese, Korean and others).

    Returns:
        (font, the text with :data:`PLACEHOLDER` for what the font lacks, the characters that it lacks).
    """
    from PIL import ImageFont

    path = _own_font()
    if set(_lacking(path, text)):
        path = _best_font(frozenset(text))
    lacking = _lacking(path, text)
    shown = "".join(PLACEHOLDER if character in lacking else character for character in text)
    return ImageFont.truetype(str(path), size), shown, lacking


def _own_font() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@functools.lru_cache(maxsize=64)
def _characters(path: Path) -> frozenset[int]:
    """The code points that a font has; none of one that cannot be drawn with."""
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    try:
        # Fonts of colored bitmaps have no outlines to scale.
        ImageFont.truetype(str(path), 20)
        return frozenset(FT2Font(str(path)).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


def _lacking(path: Path, text: str) -> str:
    there = _characters(path)
    return "".join(dict.fromkeys(c for c in text if ord(c) not in there and not c.isspace()))


@functools.lru_cache(maxsize=64)
def _best_font(characters: frozenset[str]) -> Path:
    """The installed font that has the most of the characters; of equals, our own, then the first by its path."""
    from matplotlib.font_manager import fontManager

    text = "".join(sorted(characters))
    plain = {Path(f.fname) for f in fontManager.ttflist if f.style == "normal" and str(f.weight) in _WEIGHTS}
    # A font of last resort has every character, as a frame.
    real = sorted(path for path in plain if "lastresort" not in path.stem.lower())
    return min([_own_font(), *real], key=lambda path: len(_lacking(path, text)))
