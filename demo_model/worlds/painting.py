"""Scenes as pictures."""

from __future__ import annotations

import numpy as np

from .overlays import blend
from .world import PLAIN, POSITIONS, Canvas, Scene, World


def paint(world: World, scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a scene of a world.

    Args:
        size: side of the square picture in pixels.
        rng: draws what the scene leaves open (jitter of place and size, shading, phase of the style's texture).

    Returns:
        uint8 array of shape (size, size, 3).
    """
    axis = (np.arange(size) + 0.5) / size
    y, x = np.meshgrid(axis, axis, indexing="ij")

    top, bottom = (np.asarray(color, dtype=np.float64) for color in world.backgrounds[scene.background])
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
    color = np.asarray(world.colors[scene.color], dtype=np.float64)
    edge_color = tuple(color * 0.35) if color.mean() > 70 else (235.0, 235.0, 235.0)
    outline = world.objects[scene.object]
    inside = np.zeros((size, size))
    for center in centers:
        cx, cy = center + drift
        distance = outline((x - cx) / radius, (y - cy) / radius) * radius * size
        picture = blend(picture, np.clip(0.5 - (distance - 0.012 * size), 0, 1), edge_color, 0.9)
        body = np.clip(0.5 - (distance + 0.006 * size), 0, 1)
        picture = blend(picture, body, tuple(color), 1.0)
        inside = np.maximum(inside, body)

    canvas = Canvas(x, y, tuple(rng.random(2)), rng)
    styled = picture if scene.style == PLAIN else world.styles[scene.style](picture, canvas)
    picture = styled + (picture - styled) * ((1 - world.texture_on_objects) * inside)[..., None]
    return np.clip(picture, 0, 255).round().astype(np.uint8)
