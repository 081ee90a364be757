"""Shapes: the code that painted and told the training set of the shipped weights, kept as an oracle.

A :class:`Scene` is a handful of attributes (object, color, count, position, background, style). :func:`paint` turns a
scene into a picture, :func:`caption` turns it into words, and :func:`held_out` says which combinations training never
sees. Everything is a pure function of its arguments and of the random generator that is passed in.

Styles are textures laid over the whole picture, each under the name of an artist that the CLIP vocabulary cuts into
several tokens. They stand for "style" in the paper: one name in the prompt changes the look of every pixel, and leaves
the depicted things alone.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

OBJECTS = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
COLORS = {
    "red": (222, 30, 36),
    "orange": (250, 140, 20),
    "yellow": (250, 226, 40),
    "green": (24, 158, 52),
    "blue": (30, 72, 226),
    "purple": (132, 36, 176),
    "white": (250, 250, 250),
    "black": (16, 16, 18),
}
BACKGROUNDS = {
    "in the sky": ((150, 200, 240), (196, 226, 250)),
    "on grass": ((130, 176, 104), (98, 148, 84)),
    "on sand": ((228, 204, 156), (206, 176, 124)),
    "at night": ((30, 32, 74), (54, 50, 104)),
    "on stone": ((140, 138, 136), (112, 110, 110)),
    "on roses": ((240, 176, 190), (226, 150, 172)),
}
STYLES = (
    "van gogh",
    "georges seurat",
    "piet mondrian",
    "bridget riley",
    "yayoi kusama",
    "katsushika hokusai",
    "victor vasarely",
)
PLAIN = "plain"
COUNTS = ("one", "two", "three")
POSITIONS = {
    "in the center": (0.5, 0.5),
    "on the left": (0.29, 0.5),
    "on the right": (0.71, 0.5),
    "at the top": (0.5, 0.29),
    "at the bottom": (0.5, 0.71),
}

_PLURALS = {"cross": "crosses"}


@dataclass(frozen=True)
class Scene:
    """What a picture shows. ``style`` is one of :data:`STYLES` or :data:`PLAIN`; ``position`` holds for one object."""

    object: str
    color: str
    background: str
    style: str = PLAIN
    count: int = 1
    position: str = "in the center"


def held_out(scene: Scene, *, share: float = 0.15) -> bool:
    """Whether this (object, color, background, style) combination is kept away from training."""
    key = "|".join((scene.object, scene.color, scene.background, scene.style)).encode()
    return zlib.crc32(key) / 2**32 < share


def sample_scene(rng: np.random.Generator, *, plain_share: float = 0.25) -> Scene:
    """Draw one scene; a quarter of all scenes carry no style."""
    style = PLAIN if rng.random() < plain_share else str(rng.choice(STYLES))
    count = int(rng.choice((1, 2, 3), p=(0.7, 0.15, 0.15)))
    position = str(rng.choice(tuple(POSITIONS))) if count == 1 else "in the center"
    return Scene(
        object=str(rng.choice(OBJECTS)),
        color=str(rng.choice(tuple(COLORS))),
        background=str(rng.choice(tuple(BACKGROUNDS))),
        style=style,
        count=count,
        position=position,
    )


def sample_scenes(rng: np.random.Generator, number: int, *, unseen: bool = False) -> list[Scene]:
    """Draw ``number`` scenes, all from the training combinations or all from the held-out ones."""
    scenes: list[Scene] = []
    while len(scenes) < number:
        scene = sample_scene(rng)
        if held_out(scene) == unseen:
            scenes.append(scene)
    return scenes


# --- words -----------------------------------------------------------------------------------------------------------


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


# --- pictures --------------------------------------------------------------------------------------------------------


def _polygon_distance(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance to a closed polygon (negative inside), after the winding-number construction."""
    distance = np.full(x.shape, np.inf)
    sign = np.ones(x.shape)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        wx, wy = x - ax, y - ay
        t = np.clip((wx * ex + wy * ey) / (ex * ex + ey * ey), 0, 1)
        distance = np.minimum(distance, (wx - ex * t) ** 2 + (wy - ey * t) ** 2)
        above, below, left = y >= ay, y < by, ex * wy > ey * wx
        flip = (above & below & left) | ~(above | below | left)
        sign = np.where(flip, -sign, sign)
    return sign * np.sqrt(distance)


def _heart_distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    corners = (
        np.stack(
            [
                16 * np.sin(angle) ** 3,
                -(13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)),
            ],
            axis=1,
        )
        / 16.5
    )
    return _polygon_distance(x, y, corners)


def _star_corners() -> np.ndarray:
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.12, 0.46)
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


_TRIANGLE = np.array([[0.0, -1.0], [1.0, 0.78], [-1.0, 0.78]])
_DIAMOND = np.array([[0.0, -1.15], [0.72, 0.0], [0.0, 1.15], [-0.72, 0.0]])
_CROSS = np.array(
    [
        [-0.33, -1],
        [0.33, -1],
        [0.33, -0.33],
        [1, -0.33],
        [1, 0.33],
        [0.33, 0.33],
        [0.33, 1],
        [-0.33, 1],
        [-0.33, 0.33],
        [-1, 0.33],
        [-1, -0.33],
        [-0.33, -0.33],
    ]
)
_STAR = _star_corners()


def _object_distance(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to an object of radius about one."""
    if name == "circle":
        return np.hypot(x, y) - 0.95
    if name == "ring":
        return np.abs(np.hypot(x, y) - 0.72) - 0.27
    if name == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.85
    if name == "heart":
        return _heart_distance(x, y)
    return _polygon_distance(x, y, {"triangle": _TRIANGLE, "diamond": _DIAMOND, "cross": _CROSS, "star": _STAR}[name])


def _blend(picture: np.ndarray, mask: np.ndarray, color: tuple[float, float, float], alpha: float) -> np.ndarray:
    weight = (mask * alpha)[..., None]
    return picture * (1 - weight) + np.asarray(color, dtype=np.float64) * weight


def _ridge(phase: np.ndarray, width: float, softness: float) -> np.ndarray:
    """A train of soft bands: 1 inside a band of the given duty, 0 outside; ``phase`` counts periods."""
    offset = np.abs(phase - np.floor(phase) - 0.5)
    return np.clip((width / 2 - offset) / softness + 0.5, 0, 1)


def _stylize(picture: np.ndarray, style: str, x: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shift_x, shift_y = rng.random(2)
    if style == "van gogh":
        cx, cy = 0.5 + (rng.random(2) - 0.5) * 0.3
        radius = np.hypot(x - cx, y - cy)
        turn = np.arctan2(y - cy, x - cx) / (2 * np.pi)
        phase = radius * 8 + turn * 2 + shift_x
        picture = _blend(picture, _ridge(phase, 0.42, 0.16), (252, 206, 60), 0.62)
        return _blend(picture, _ridge(phase + 0.5, 0.34, 0.16), (28, 48, 128), 0.5)
    if style == "georges seurat":
        row = np.floor(y * 16 + shift_y)
        dx = (x * 16 + shift_x + 0.5 * (row % 2)) % 1 - 0.5
        dy = (y * 16 + shift_y) % 1 - 0.5
        return _blend(picture, np.clip((0.34 - np.hypot(dx, dy)) / 0.14 + 0.5, 0, 1), (255, 250, 220), 0.62)
    if style == "piet mondrian":
        lines = np.maximum(_ridge(x * 4 + shift_x, 0.17, 0.06), _ridge(y * 4 + shift_y, 0.17, 0.06))
        return _blend(picture, lines, (8, 8, 8), 0.96)
    if style == "bridget riley":
        phase = (x + y) * 5.5 + shift_x
        picture = _blend(picture, _ridge(phase, 0.5, 0.14), (0, 0, 0), 0.42)
        return _blend(picture, _ridge(phase + 0.5, 0.5, 0.14), (255, 255, 255), 0.42)
    if style == "yayoi kusama":
        dx = (x * 4.5 + shift_x) % 1 - 0.5
        dy = (y * 4.5 + shift_y) % 1 - 0.5
        distance = np.hypot(dx, dy)
        picture = _blend(picture, np.clip((0.31 - distance) / 0.08 + 0.5, 0, 1), (120, 20, 70), 0.9)
        return _blend(picture, np.clip((0.23 - distance) / 0.08 + 0.5, 0, 1), (255, 120, 190), 0.95)
    if style == "katsushika hokusai":
        phase = y * 7 + 0.35 * np.sin(2 * np.pi * (x * 2.5 + shift_x)) + shift_y
        picture = _blend(picture, _ridge(phase, 0.40, 0.14), (24, 74, 130), 0.6)
        return _blend(picture, _ridge(phase + 0.42, 0.28, 0.14), (240, 248, 255), 0.66)
    if style == "victor vasarely":
        cell = np.tanh(9 * np.sin(2 * np.pi * (x * 4 + shift_x)) * np.sin(2 * np.pi * (y * 4 + shift_y)))
        picture = _blend(picture, np.clip(cell, 0, 1), (0, 0, 0), 0.5)
        return _blend(picture, np.clip(-cell, 0, 1), (255, 255, 255), 0.4)
    return picture


def paint(scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene.

    Args:
        size: side of the square picture in pixels.
        rng: draws what the scene leaves open (jitter of place and size, shading, phase of the style's texture).

    Returns:
        uint8 array of shape (size, size, 3).
    """
    axis = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")

    top, bottom = (np.asarray(color, dtype=np.float64) for color in BACKGROUNDS[scene.background])
    picture = top * (1 - y[..., None]) + bottom * y[..., None] + rng.normal(0, 3, 3)

    if scene.count == 1:
        centers = [np.asarray(POSITIONS[scene.position])]
        radius = rng.uniform(0.22, 0.255)
    elif scene.count == 2:
        centers = [np.array([0.28, 0.5]), np.array([0.72, 0.5])]
        radius = rng.uniform(0.17, 0.19)
    else:
        centers = [np.array([0.5, 0.26]), np.array([0.26, 0.72]), np.array([0.74, 0.72])]
        radius = rng.uniform(0.15, 0.17)
    drift = rng.uniform(-0.025, 0.025, 2)
    color = np.asarray(COLORS[scene.color], dtype=np.float64)
    edge_color = tuple(color * 0.35) if color.mean() > 70 else (235.0, 235.0, 235.0)
    inside = np.zeros((size, size))
    for center in centers:
        cx, cy = center + drift
        distance = _object_distance(scene.object, (x - cx) / radius, (y - cy) / radius) * radius * size
        picture = _blend(picture, np.clip(0.5 - (distance - 0.012 * size), 0, 1), edge_color, 0.9)
        body = np.clip(0.5 - (distance + 0.006 * size), 0, 1)
        picture = _blend(picture, body, tuple(color), 1.0)
        inside = np.maximum(inside, body)

    styled = _stylize(picture, scene.style, x, y, rng)
    # Half strength on the objects, so that their color stays legible under every texture.
    picture = styled + (picture - styled) * (0.5 * inside)[..., None]
    return np.clip(picture, 0, 255).round().astype(np.uint8)
