"""Outlines of objects as signed distances: negative inside, about one in radius, y pointing down."""

from __future__ import annotations

import numpy as np

from .world import Outline


def polygon_distance(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
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


def polygon(*corners: tuple[float, float]) -> Outline:
    """The outline of a polygon."""
    points = np.array(corners, dtype=np.float64)
    return lambda x, y: polygon_distance(x, y, points)


def disc(cx: float, cy: float, radius: float) -> Outline:
    return lambda x, y: np.hypot(x - cx, y - cy) - radius


def annulus(cx: float, cy: float, radius: float, half_width: float) -> Outline:
    return lambda x, y: np.abs(np.hypot(x - cx, y - cy) - radius) - half_width


def box(left: float, top: float, right: float, bottom: float) -> Outline:
    cx, cy, half_x, half_y = (left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2
    return lambda x, y: np.maximum(np.abs(x - cx) - half_x, np.abs(y - cy) - half_y)


def ellipse(cx: float, cy: float, half_x: float, half_y: float, *, turn: float = 0.0) -> Outline:
    """An ellipse turned by ``turn`` radians; the distance is that of first order."""
    cos, sin = np.cos(turn), np.sin(turn)

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        u, v = cos * (x - cx) + sin * (y - cy), cos * (y - cy) - sin * (x - cx)
        level = np.hypot(u / half_x, v / half_y)
        slope = np.hypot(u / half_x**2, v / half_y**2)
        return level * (level - 1) / np.maximum(slope, 1e-9)

    return distance


def union(*outlines: Outline) -> Outline:
    """Everything that lies in one of the outlines."""
    return lambda x, y: np.minimum.reduce([outline(x, y) for outline in outlines])


def without(outline: Outline, *holes: Outline) -> Outline:
    """What lies in an outline and in no hole."""
    return lambda x, y: np.maximum.reduce([outline(x, y), *(-hole(x, y) for hole in holes)])


def within(*outlines: Outline) -> Outline:
    """What lies in all outlines."""
    return lambda x, y: np.maximum.reduce([outline(x, y) for outline in outlines])


# --- the eight of Shapes ---------------------------------------------------------------------------------------------


def circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.95


def square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.72) - 0.27


def heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
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
    return polygon_distance(x, y, corners)


def star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    angle = np.arange(10) * np.pi / 5
    radius = np.where(np.arange(10) % 2 == 0, 1.12, 0.46)
    return polygon_distance(x, y, np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1))


triangle = polygon((0.0, -1.0), (1.0, 0.78), (-1.0, 0.78))
diamond = polygon((0.0, -1.15), (0.72, 0.0), (0.0, 1.15), (-0.72, 0.0))
cross = polygon(
    (-0.33, -1),
    (0.33, -1),
    (0.33, -0.33),
    (1, -0.33),
    (1, 0.33),
    (0.33, 0.33),
    (0.33, 1),
    (-0.33, 1),
    (-0.33, 0.33),
    (-1, 0.33),
    (-1, -0.33),
    (-0.33, -0.33),
)

# --- the sixteen that Gallery has beside them ------------------------------------------------------------------------

moon = without(disc(-0.1, 0, 1.05), disc(0.42, -0.08, 0.86))
arrow = polygon((1.15, 0), (0.25, -0.85), (0.25, -0.34), (-1.1, -0.34), (-1.1, 0.34), (0.25, 0.34), (0.25, 0.85))
house = without(
    union(polygon((0, -1.1), (1.1, -0.1), (-1.1, -0.1)), box(-0.8, -0.2, 0.8, 0.95)), box(-0.22, 0.3, 0.22, 1.2)
)
tree = union(
    polygon((0, -1.2), (0.55, -0.45), (-0.55, -0.45)),
    polygon((0, -0.8), (0.78, 0.1), (-0.78, 0.1)),
    polygon((0, -0.35), (1.0, 0.68), (-1.0, 0.68)),
    box(-0.2, 0.6, 0.2, 1.15),
)
fish = without(
    union(ellipse(0.2, 0, 0.92, 0.58), polygon((-0.4, 0), (-1.15, -0.7), (-1.15, 0.7))), disc(0.66, -0.14, 0.13)
)
cup = union(
    polygon((-0.95, -0.8), (0.5, -0.8), (0.38, 0.9), (-0.83, 0.9)),
    without(ellipse(0.55, -0.05, 0.56, 0.56), ellipse(0.55, -0.05, 0.3, 0.3)),
)
key = union(
    annulus(0, -0.62, 0.4, 0.19),
    box(-0.15, -0.2, 0.15, 1.15),
    box(0, 0.45, 0.58, 0.68),
    box(0, 0.9, 0.58, 1.15),
)
bottle = polygon(
    (-0.24, -1.2), (0.24, -1.2), (0.24, -0.6), (0.56, -0.1), (0.56, 1.15), (-0.56, 1.15), (-0.56, -0.1), (-0.24, -0.6)
)
crown = polygon((-1.1, -0.75), (-0.55, -0.05), (0, -1.0), (0.55, -0.05), (1.1, -0.75), (0.9, 0.85), (-0.9, 0.85))
anchor = union(
    annulus(0, -0.86, 0.2, 0.13),
    box(-0.14, -0.7, 0.14, 1.0),
    box(-0.55, -0.5, 0.55, -0.25),
    within(annulus(0, 0.1, 0.86, 0.15), box(-2, 0.2, 2, 2)),
    polygon((-1.25, 0.42), (-0.82, -0.1), (-0.5, 0.42)),
    polygon((1.25, 0.42), (0.82, -0.1), (0.5, 0.42)),
)
mushroom = union(within(ellipse(0, 0.05, 1.1, 1.1), box(-2, -2, 2, 0.1)), box(-0.36, 0, 0.36, 1.0))
cloud = union(
    disc(-0.62, 0.18, 0.46),
    disc(-0.12, -0.18, 0.58),
    disc(0.5, 0.0, 0.48),
    disc(0.8, 0.28, 0.36),
    box(-0.7, 0.1, 0.85, 0.64),
)
hourglass = polygon((-0.85, -1.0), (0.85, -1.0), (0.14, 0.0), (0.85, 1.0), (-0.85, 1.0), (-0.14, 0.0))
butterfly = union(
    ellipse(-0.6, -0.38, 0.6, 0.44, turn=0.6),
    ellipse(0.6, -0.38, 0.6, 0.44, turn=-0.6),
    ellipse(-0.45, 0.5, 0.42, 0.34, turn=-0.6),
    ellipse(0.45, 0.5, 0.42, 0.34, turn=0.6),
    ellipse(0, 0.05, 0.13, 0.85),
)
boat = union(
    polygon((-1.15, 0.4), (1.15, 0.4), (0.7, 1.0), (-0.7, 1.0)),
    polygon((-0.1, -1.1), (-0.1, 0.22), (-0.95, 0.22)),
    polygon((0.1, -0.85), (0.85, 0.22), (0.1, 0.22)),
)
ladder = union(
    box(-0.72, -1.15, -0.44, 1.15),
    box(0.44, -1.15, 0.72, 1.15),
    *(box(-0.6, at - 0.12, 0.6, at + 0.12) for at in (-0.75, -0.25, 0.25, 0.75)),
)
