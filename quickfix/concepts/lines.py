"""Lists as people write them: lines with bullets, comments, quotes, any arrow, and characters that nobody sees.

A line means what a reader takes it to mean. Invisible characters are dropped, bullets and numbers before a line and
comments behind it do not count, quotes around a name are not part of it, and every arrow to the right is an arrow.
A name in quotes is taken to the letter, so that a name may hold a comma, a bullet or a comment's sign.
"""

from __future__ import annotations

import re
import unicodedata

ARROW = "->"
_OPENING = {'"': '"', "'": "'", "\u201c": "\u201d", "\u201e": "\u201c", "\u2018": "\u2019", "\u00ab": "\u00bb",
            "\u300c": "\u300d", "\u300e": "\u300f", "\uff02": "\uff02", "`": "`"}  # fmt: skip
# Quotes that never stand in a name by themselves, as an apostrophe does.
_DOUBLE = frozenset('"\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f\uff02')
_BULLET = r"\s*(?:[-*+\u2022\u2023\u2043\u00b7\u2013\u2014\u25e6\u25aa\u25cf\u25cb]|\d{1,4}[.)])\s+"
_COMMENT = r"\s*(?:#|//)"
_BEHIND = r"\s(?:#|//)\s"
# Blocks of Unicode that hold arrows.
_BLOCKS = (range(0x2190, 0x2200), range(0x2794, 0x27C0), range(0x27F0, 0x2980), range(0x2B00, 0x2C00),
           range(0xFFE9, 0xFFED), range(0x1F800, 0x1F900))  # fmt: skip
# Characters that join letters of some scripts; elsewhere they are dropped like the other invisible ones.
_JOINERS = "\u200c\u200d"


def _arrows(side: str, other: str) -> str:
    names = ((chr(code), unicodedata.name(chr(code), "")) for block in _BLOCKS for code in block)
    return "".join(sign for sign, name in names if "ARROW" in name and side in name and other not in name)


_RIGHT = rf"[-=\u2013\u2014\uff0d\uff1d]+[>\uff1e]|[{re.escape(_arrows('RIGHT', 'LEFT'))}]\ufe0f?"
_LEFT = rf"[<\uff1c][-=\uff0d\uff1d]+|[{re.escape(_arrows('LEFT', 'RIGHT'))}]"


def visible(text: str) -> str:
    """A text without invisible characters (zero-width spaces, marks of direction, soft hyphens), and with plain spaces
    for all others. Joiners stay between letters of scripts that need them."""
    kept = []
    for place, character in enumerate(text):
        if character in _JOINERS:
            around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
            if len(around) < 2 or around.isascii():
                continue
        elif unicodedata.category(character) == "Cf":
            continue
        kept.append(" " if unicodedata.category(character) == "Zs" else character)
    return "".join(kept)


def content_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that say something, each with its number from 1, without bullets and comments.

    What is taken off a line's front leaves spaces, so that columns stay as they are seen.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        line = visible(line)
        bullet = re.match(_BULLET, line)
        if bullet and line[bullet.end() :].strip():
            line = " " * bullet.end() + line[bullet.end() :]
        if line.strip() and not re.match(_COMMENT, line):
            found.append((number, _without_comment(line)))
    return found


def unquoted(name: str) -> str:
    """A name without the spaces and the pair of quotes around it.

    Raises:
        ValueError: a quote is opened and not closed, or closed and not opened, or another stands within.
    """
    name = name.strip()
    if _quoted(name):
        return name[1:-1].strip()
    if len(name) > 1 and name[0] == name[-1] == "'":
        raise ValueError(f"{name[:80]!r} has quotes within quotes; put double quotes around it")
    if name[:1] in _DOUBLE or name[-1:] in _DOUBLE:
        raise ValueError(f"{name[:80]!r} has a quote at one end alone; close it, or take it away")
    return name


def taken_to_the_letter(name: str) -> bool:
    """Whether a name stands in quotes."""
    return _quoted(name.strip())


def find_arrows(text: str) -> list[tuple[int, int]]:
    """Where arrows to the right stand outside of names in quotes, as (first, one past the last)."""
    spans: list[tuple[int, int]] = []
    place = _behind_quoted(text, 0)
    while found := re.search(_RIGHT, text[place:]):
        spans.append((place + found.start(), place + found.end()))
        place = _behind_quoted(text, spans[-1][1])
    return spans


def has_arrow_to_the_left(text: str) -> bool:
    """Whether an arrow of a line points the wrong way."""
    return bool(re.search(_LEFT, text))


def _quoted(name: str) -> bool:
    """Whether one pair of quotes goes around a whole name."""
    closing = _OPENING.get(name[:1])
    if len(name) < 2 or name[-1] != closing:
        return False
    inside = name[1:-1]
    if closing == "'":
        # An apostrophe is no quote that closes where a letter follows it: o'keeffe, the '80s.
        return not re.search(r"'(?![^\W_])", inside) or re.search(r"(?<!\S)'[^\W_]+'(?!\S)", inside) is not None
    return not any(mark in inside for mark in (name[0], closing))


def _behind_quoted(text: str, place: int) -> int:
    """The place behind a name in quotes that begins at a place; the place itself where there is none."""
    start = len(text) - len(text[place:].lstrip())
    closing = _OPENING.get(text[start : start + 1])
    end = text.find(closing, start + 1) if closing else -1
    rest = text[end + 1 :].lstrip()
    return end + 1 if end >= 0 and (not rest or re.match(_RIGHT, rest)) else place


def _without_comment(line: str) -> str:
    """A line without what stands behind a comment's sign, unless the sign stands in quotes."""
    for found in re.finditer(_BEHIND, line):
        if line.count('"', 0, found.start()) % 2 == 0:
            return line[: found.start()]
    return line
