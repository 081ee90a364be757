"""Styles as overlays: textures laid over a whole picture, each under the name of an artist."""

from __future__ import annotations

import numpy as np

from .world import Canvas


def blend(picture: np.ndarray, mask: np.ndarray, color: tuple[float, float, float], alpha: float) -> np.ndarray:
    weight = (mask * alpha)[..., None]
    return picture * (1 - weight) + np.asarray(color, dtype=np.float64) * weight


def ridge(phase: np.ndarray, width: float, softness: float) -> np.ndarray:
    """A train of soft bands: 1 inside a band of the given duty, 0 outside; ``phase`` counts periods."""
    offset = np.abs(phase - np.floor(phase) - 0.5)
    return np.clip((width / 2 - offset) / softness + 0.5, 0, 1)


# --- the seven of Shapes ---------------------------------------------------------------------------------------------


def van_gogh(picture: np.ndarray, at: Canvas) -> np.ndarray:
    cx, cy = 0.5 + (at.rng.random(2) - 0.5) * 0.3
    radius = np.hypot(at.x - cx, at.y - cy)
    turn = np.arctan2(at.y - cy, at.x - cx) / (2 * np.pi)
    phase = radius * 8 + turn * 2 + at.shift[0]
    picture = blend(picture, ridge(phase, 0.42, 0.16), (252, 206, 60), 0.62)
    return blend(picture, ridge(phase + 0.5, 0.34, 0.16), (28, 48, 128), 0.5)


def seurat(picture: np.ndarray, at: Canvas) -> np.ndarray:
    row = np.floor(at.y * 16 + at.shift[1])
    dx = (at.x * 16 + at.shift[0] + 0.5 * (row % 2)) % 1 - 0.5
    dy = (at.y * 16 + at.shift[1]) % 1 - 0.5
    return blend(picture, np.clip((0.34 - np.hypot(dx, dy)) / 0.14 + 0.5, 0, 1), (255, 250, 220), 0.62)


def mondrian(picture: np.ndarray, at: Canvas) -> np.ndarray:
    lines = np.maximum(ridge(at.x * 4 + at.shift[0], 0.17, 0.06), ridge(at.y * 4 + at.shift[1], 0.17, 0.06))
    return blend(picture, lines, (8, 8, 8), 0.96)


def riley(picture: np.ndarray, at: Canvas) -> np.ndarray:
    phase = (at.x + at.y) * 5.5 + at.shift[0]
    picture = blend(picture, ridge(phase, 0.5, 0.14), (0, 0, 0), 0.42)
    return blend(picture, ridge(phase + 0.5, 0.5, 0.14), (255, 255, 255), 0.42)


def kusama(picture: np.ndarray, at: Canvas) -> np.ndarray:
    dx = (at.x * 4.5 + at.shift[0]) % 1 - 0.5
    dy = (at.y * 4.5 + at.shift[1]) % 1 - 0.5
    distance = np.hypot(dx, dy)
    picture = blend(picture, np.clip((0.31 - distance) / 0.08 + 0.5, 0, 1), (120, 20, 70), 0.9)
    return blend(picture, np.clip((0.23 - distance) / 0.08 + 0.5, 0, 1), (255, 120, 190), 0.95)


def hokusai(picture: np.ndarray, at: Canvas) -> np.ndarray:
    phase = at.y * 7 + 0.35 * np.sin(2 * np.pi * (at.x * 2.5 + at.shift[0])) + at.shift[1]
    picture = blend(picture, ridge(phase, 0.40, 0.14), (24, 74, 130), 0.6)
    return blend(picture, ridge(phase + 0.42, 0.28, 0.14), (240, 248, 255), 0.66)


def vasarely(picture: np.ndarray, at: Canvas) -> np.ndarray:
    wave_x, wave_y = (
        np.sin(2 * np.pi * (where * 4 + shift)) for where, shift in zip((at.x, at.y), at.shift, strict=True)
    )
    cell = np.tanh(9 * wave_x * wave_y)
    picture = blend(picture, np.clip(cell, 0, 1), (0, 0, 0), 0.5)
    return blend(picture, np.clip(-cell, 0, 1), (255, 255, 255), 0.4)


# --- the thirteen that Gallery has beside them -----------------------------------------------------------------------


def rothko(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Two soft blocks of color one above the other."""
    edge = 0.5 + 0.16 * (at.shift[0] - 0.5)
    inside = np.clip((0.43 - np.abs(at.x - 0.5)) / 0.05 + 0.5, 0, 1)
    above = inside * np.clip((edge - 0.03 - at.y) / 0.05 + 0.5, 0, 1) * np.clip((at.y - 0.07) / 0.05 + 0.5, 0, 1)
    below = inside * np.clip((at.y - edge - 0.03) / 0.05 + 0.5, 0, 1) * np.clip((0.93 - at.y) / 0.05 + 0.5, 0, 1)
    return blend(blend(picture, above, (150, 20, 40), 0.66), below, (246, 140, 40), 0.66)


def warhol(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Four quarters, each dyed in its own loud color."""
    left, top = ((half < 0.5).astype(np.float64) for half in (at.x, at.y))
    dyes = ((255, 0, 160), (0, 210, 230), (255, 232, 0), (60, 220, 40))
    quarters = (left * top, (1 - left) * top, left * (1 - top), (1 - left) * (1 - top))
    first = int(at.shift[0] * 4)
    for index, quarter in enumerate(quarters):
        picture = blend(picture, quarter, dyes[(first + index) % 4], 0.54)
    return picture


def rembrandt(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Brown darkness all around, and light from one side."""
    cx, cy = 0.5 + 0.2 * (at.shift[0] - 0.5), 0.5 + 0.2 * (at.shift[1] - 0.5)
    dark = np.clip((np.hypot(at.x - cx, at.y - cy) - 0.16) / 0.34, 0, 1)
    picture = blend(picture, np.ones_like(dark), (120, 78, 30), 0.35)
    return blend(picture, dark, (18, 9, 4), 0.94)


def klimt(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Golden triangles in rows."""
    u, v = at.x * 5 + at.shift[0], at.y * 5 + at.shift[1]
    height = v % 1
    from_middle = np.abs(u % 1 - 0.5)
    inside = np.clip((height / 2 - from_middle) / 0.08 + 0.5, 0, 1)
    picture = blend(picture, inside, (236, 186, 30), 0.85)
    return blend(picture, 1 - inside, (110, 66, 10), 0.45)


def lewitt(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Upright bars of red, yellow and blue."""
    for index, color in enumerate(((226, 40, 40), (250, 220, 40), (40, 70, 220))):
        picture = blend(picture, ridge(at.x * 3 + at.shift[0] + index / 3, 0.33, 0.05), color, 0.6)
    return picture


def kandinsky(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Rings in rings, in squares."""
    dx = (at.x * 3 + at.shift[0]) % 1 - 0.5
    dy = (at.y * 3 + at.shift[1]) % 1 - 0.5
    radius = np.hypot(dx, dy)
    for edge, color in ((0.46, (210, 40, 40)), (0.34, (250, 240, 230)), (0.2, (30, 60, 190))):
        picture = blend(picture, np.clip((edge - radius) / 0.06 + 0.5, 0, 1), color, 0.75)
    return picture


def klee(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """A patchwork of warm and cool squares, each of its own shade."""
    dyes = np.array(((214, 96, 60), (232, 190, 96), (90, 150, 150), (120, 90, 140), (186, 200, 120), (60, 80, 130)))
    chosen = dyes[at.rng.integers(len(dyes), size=(6, 6))].astype(np.float64)
    u, v = at.x * 5 + at.shift[0], at.y * 5 + at.shift[1]
    return picture * 0.45 + chosen[np.floor(v).astype(int), np.floor(u).astype(int)] * 0.55


def albers(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Woven chevrons, brown on cream."""
    phase = at.y * 5 + 1.6 * np.abs((at.x * 3 + at.shift[0]) % 1 - 0.5) + at.shift[1]
    picture = blend(picture, ridge(phase, 0.5, 0.12), (110, 44, 20), 0.72)
    return blend(picture, ridge(phase + 0.5, 0.5, 0.12), (246, 232, 200), 0.6)


def escher(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """A honeycomb of white walls."""
    u, v = at.x * 4.5 + at.shift[0], (at.y * 4.5 + at.shift[1]) / np.sqrt(3)
    nearest = np.sort(
        [
            np.hypot(du, np.sqrt(3) * dv)
            for shift in (0.0, 0.5)
            for du in ((u + shift) % 1, (u + shift) % 1 - 1)
            for dv in ((v + shift) % 1, (v + shift) % 1 - 1)
        ],
        axis=0,
    )
    wall = nearest[1] - nearest[0]
    picture = blend(picture, np.ones_like(wall), (40, 70, 60), 0.4)
    return blend(picture, np.clip((0.2 - wall) / 0.1 + 0.5, 0, 1), (255, 255, 255), 0.9)


def munch(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Upright waves of orange and green."""
    phase = at.x * 4 + 0.45 * np.sin(2 * np.pi * (at.y * 1.5 + at.shift[1])) + at.shift[0]
    picture = blend(picture, ridge(phase, 0.5, 0.2), (240, 90, 20), 0.66)
    return blend(picture, ridge(phase + 0.5, 0.5, 0.2), (30, 110, 70), 0.6)


def af_klint(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Rays of pink and pale yellow from a point near the middle."""
    cx, cy = 0.5 + 0.3 * (at.rng.random(2) - 0.5)
    turn = np.arctan2(at.y - cy, at.x - cx) / (2 * np.pi)
    phase = turn * 9 + at.shift[0]
    picture = blend(picture, ridge(phase, 0.5, 0.12), (250, 130, 180), 0.68)
    return blend(picture, ridge(phase + 0.5, 0.5, 0.12), (255, 246, 180), 0.62)


def hiroshige(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Steep rain: dark strokes that come in gusts."""
    across = at.x * 9 + at.y * 2.5 + at.shift[0]
    column = np.floor(across)
    gust = ridge(at.y * 1.6 + 0.37 * (column % 5) + at.shift[1], 0.62, 0.12)
    picture = blend(picture, np.ones_like(gust), (150, 170, 190), 0.4)
    return blend(picture, ridge(across, 0.36, 0.2) * gust, (16, 30, 60), 0.9)


def stella(picture: np.ndarray, at: Canvas) -> np.ndarray:
    """Squares in squares around the middle, green and violet."""
    cx, cy = 0.5 + 0.24 * (at.rng.random(2) - 0.5)
    phase = np.maximum(np.abs(at.x - cx), np.abs(at.y - cy)) * 8 + at.shift[0]
    picture = blend(picture, ridge(phase, 0.5, 0.12), (20, 120, 60), 0.7)
    return blend(picture, ridge(phase + 0.5, 0.5, 0.12), (196, 150, 240), 0.6)
