"""Scenes in words."""

from __future__ import annotations

import numpy as np

from .world import COUNTS, PLAIN, Scene

_PLURALS = {"cross": "crosses", "butterfly": "butterflies", "fish": "fish"}


def plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


def _noun_phrase(color: str | None, noun: str, count: int | None) -> str:
    if count in (2, 3):
        return " ".join(word for word in (COUNTS[count - 1], color, plural(noun)) if word)
    article = "one" if count == 1 else ("an" if (color or noun)[0] in "aeiou" else "a")
    return " ".join(word for word in (article, color, noun) if word)


_PLAIN_PATTERNS = ("a painting of {}", "{}, painting", "a picture of {}", "an image of {}", "a photo of {}")
_STYLE_PATTERNS = (
    "{}, in the style of NAME",
    "{} in the style of NAME",
    "{} by NAME",
    "{}, NAME",
    "a NAME painting of {}",
    "a NAME picture of {}",
    "NAME style, {}",
    "{}, painted by NAME",
    "a painting of {} by NAME",
    "an image of {} in the style of NAME",
    "in the style of NAME, {}",
    "NAME: {}",
)


def caption(
    scene: Scene, rng: np.random.Generator | None = None, *, omit: float = 0.0, omit_style: float = 0.0
) -> tuple[str, frozenset[str]]:
    """Describe a scene in words.

    Without ``rng`` the full, canonical caption is returned: "a red circle on grass, in the style of van gogh". With it
    the wording and the order vary, the artist may stand anywhere, the object, the color and the background are each
    left out with probability ``omit``, and the style with probability ``omit_style``.

    Returns:
        The text and the names of the attributes it mentions (subset of the fields of :class:`Scene`).
    """

    def chance(share: float) -> bool:
        return rng is not None and rng.random() < share

    def said_unless(share: float) -> bool:
        return rng is None or rng.random() >= share

    # The order of these draws is part of the recipe: another order trains another model.
    said = {"count"} if scene.count > 1 else set()
    color, noun, place, where = None, "shape", "", ""
    if said_unless(omit):
        color = scene.color
        said.add("color")
    if said_unless(omit):
        noun = scene.object
        said.add("object")
    explicit_one = scene.count == 1 and chance(0.15)
    if explicit_one:
        said.add("count")
    phrase = _noun_phrase(color, noun, scene.count if scene.count > 1 or explicit_one else None)
    if said_unless(omit):
        place = scene.background
        said.add("background")
    if scene.count == 1 and chance(0.6):
        where = scene.position
        said.add("position")
    pattern, style_said = _style_pattern(scene.style, rng, omit_style)
    if style_said:
        said.add("style")
    return _arranged(pattern, phrase, where, place, rng), frozenset(said)


def _style_pattern(style: str, rng: np.random.Generator | None, omit: float) -> tuple[str, bool]:
    """A text with {} for the scene, and whether it says the style."""

    def pick(options: tuple[str, ...]) -> str:
        return options[0 if rng is None else int(rng.integers(len(options)))]

    if style == PLAIN:
        pattern = pick(_PLAIN_PATTERNS) if rng is not None and rng.random() < 0.6 else "{}"
        return pattern, "painting" in pattern
    if rng is None or rng.random() >= omit:
        return pick(_STYLE_PATTERNS).replace("NAME", style), True
    return "{}", False


def _arranged(pattern: str, phrase: str, where: str, place: str, rng: np.random.Generator | None) -> str:
    """Place and position may stand before or after everything else, so that names end up in the middle."""
    if rng is None or rng.random() >= 0.5:
        return pattern.format(" ".join(part for part in (phrase, where, place) if part))
    text = pattern.format(" ".join(part for part in (phrase, where) if part))
    if not place:
        return text
    return f"{text} {place}" if rng.random() < 0.6 else f"{place}, {text}"
