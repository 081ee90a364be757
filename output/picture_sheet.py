"""Pictures in rows and columns on one sheet, with labels. Pillow and Matplotlib are imported when it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from .figures import shorten
from .fonts import font_for

if TYPE_CHECKING:
    from PIL import Image, ImageDraw
    from PIL.ImageFont import FreeTypeFont

SMALLEST, LARGEST = 224, 768
"""Longer sides of a picture on the sheet, in pixels: labels need room, and a sheet has to be looked at whole."""
PAPER, INK, FAINT = "#fbfaf7", "#1d2433", "#5b6475"
LINES = 3
"""Lines of a label, at most; what is longer ends in three dots."""


def draw_sheet(
    columns: Sequence[np.ndarray], names: Sequence[str], rows: Sequence[str], captions: Sequence[Sequence[str]]
) -> tuple[np.ndarray, str]:
    """The sheet: a line of names, then each row's label above its pictures, captions below them.

    Args:
        columns: of each column its pictures (rows, height, width, 3) in [0, 1], all of one shape.
        names: of the columns.
        rows: what stands above each row; empty for none.
        captions: of each column what stands below each of its pictures; empty for none.

    Returns:
        (the sheet (height, width, 3) uint8, the characters of the labels that no font on this machine has; the sheet
        shows a square in their place).
    """
    from PIL import Image, ImageDraw

    size = _size_of(*columns[0].shape[2:0:-1])
    text = max(13, round(max(size) / 24))
    gap = text
    width = len(columns) * (size[0] + gap) + gap
    headings = [Label(name, text + 2, size[0]) for name in names]
    labels = [Label(row, text, width - 2 * gap) for row in rows]
    below = [[Label(caption, text, size[0]) for caption in column] for column in captions]
    caption_heights = [max(column[row].height for column in below) for row in range(len(rows))]
    heading_height = max(label.height for label in headings)
    height = (
        gap
        + heading_height
        + sum(gap + label.height + size[1] + under for label, under in zip(labels, caption_heights, strict=True))
        + gap
    )
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [gap + place * (size[0] + gap) for place in range(len(columns))]
    for label, left in zip(headings, lefts, strict=True):
        label.draw(pen, left, gap + heading_height - label.height, INK)
    top = gap + heading_height
    for row, label in enumerate(labels):
        top += gap
        label.draw(pen, gap, top, INK)
        top += label.height
        for place, left in enumerate(lefts):
            sheet.paste(_scaled(columns[place][row], size), (left, top))
            below[place][row].draw(pen, left, top + size[1], FAINT)
        top += size[1] + caption_heights[row]
    every = [*headings, *labels, *(label for column in below for label in column)]
    return np.asarray(sheet).copy(), "".join(dict.fromkeys("".join(label.lacking for label in every)))


class Label:
    """A text in lines no wider than its place.

    Args:
        text: any text; what cannot be printed becomes a space.
        size: of the letters, in pixels.
        width: of the place, in pixels.
    """

    def __init__(self, text: str, size: int, width: int) -> None:
        self.font, shown, self.lacking = font_for(shorten(text.strip(), 600), size)
        self.lines = _lines(shown, self.font, width)
        self.line_height = round(1.4 * size)

    @property
    def height(self) -> int:
        """In pixels; 0 for an empty text."""
        return self.line_height * len(self.lines)

    def draw(self, pen: ImageDraw.ImageDraw, left: int, top: int, color: str) -> None:
        for number, line in enumerate(self.lines):
            pen.text((left, top + number * self.line_height), line, color, self.font)


def _lines(text: str, font: FreeTypeFont, width: int) -> list[str]:
    """A text in lines, broken between words, and in a word where it alone is too wide."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < LINES:
        fits = _fitting(rest, font, width)
        if fits < len(rest) and len(lines) == LINES - 1:
            return [*lines, rest[: _fitting(rest, font, width - round(font.getlength("...")))].rstrip() + "..."]
        space = rest.rfind(" ", 0, fits + 1)
        end = fits if fits == len(rest) or space < 1 else space
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


def _fitting(text: str, font: FreeTypeFont, width: int) -> int:
    """How many of a text's first characters fit, at least one."""
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
    return low


def _size_of(width: int, height: int) -> tuple[int, int]:
    """(width, height) on the sheet: small pictures are enlarged by a whole factor, large ones made smaller."""
    long = max(width, height)
    if long < SMALLEST:
        factor: float = -(-SMALLEST // long)
    else:
        factor = min(1.0, LARGEST / long)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _scaled(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    from PIL import Image

    pixels = Image.fromarray(np.clip(255 * picture + 0.5, 0, 255).astype(np.uint8))
    if pixels.size == size:
        return pixels
    return pixels.resize(size, Image.Resampling.NEAREST if pixels.width < size[0] else Image.Resampling.LANCZOS)
