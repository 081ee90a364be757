"""What a world is made of, and the scenes in it.

A :class:`World` holds the objects, colors, backgrounds and styles that there are, each with how it is drawn. A
:class:`Scene` is a handful of attributes (object, color, count, position, background, style) of one world.
:func:`~.painting.paint` turns a scene into a picture, :func:`~.captions.caption` turns it into words, and
:func:`held_out` says which combinations training never sees. Everything is a pure function of its arguments and of the
random generator that is passed in.

Styles are textures laid over the whole picture, each under the name of an artist that the CLIP vocabulary cuts into
several tokens. They stand for "style" in the paper: one name in the prompt changes the look of every pixel, and leaves
the depicted things alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

PLAIN = "plain"
COUNTS = ("one", "two", "three")
POSITIONS = {
    "in the center": (0.5, 0.5),
    "on the left": (0.29, 0.5),
    "on the right": (0.71, 0.5),
    "at the top": (0.5, 0.29),
    "at the bottom": (0.5, 0.71),
}

Color = tuple[int, int, int]
Outline = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Signed distance (negative inside) of points (x, y) to an object of radius about one; y points down."""


@dataclass(frozen=True)
class Canvas:
    """Where an overlay draws: pixel centers ``x``, ``y`` in [0, 1], a random shift of its texture, a generator."""

    x: np.ndarray
    y: np.ndarray
    shift: tuple[float, float]
    rng: np.random.Generator


Overlay = Callable[[np.ndarray, Canvas], np.ndarray]
"""Lays a style over a picture, float (size, size, 3) in [0, 255]."""


@dataclass(frozen=True)
class World:
    """What scenes are made of: names in the order in which they are drawn from, each with how it looks.

    Attributes:
        name: what the world is called.
        objects: to outlines.
        colors: to red, green, blue of 0 to 255.
        backgrounds: to the colors at the top and at the bottom.
        styles: to overlays; :data:`PLAIN` is a style of every world and not among them.
        texture_on_objects: how much of an overlay shows on the objects, so that their color stays legible.
    """

    name: str
    objects: Mapping[str, Outline]
    colors: Mapping[str, Color]
    backgrounds: Mapping[str, tuple[Color, Color]]
    styles: Mapping[str, Overlay]
    texture_on_objects: float = 0.5

    @property
    def values(self) -> dict[str, tuple[str, ...]]:
        """What can be told apart in a picture: attribute of a scene to its values, in a fixed order."""
        return {
            "object": tuple(self.objects),
            "color": tuple(self.colors),
            "background": tuple(self.backgrounds),
            "style": (*self.styles, PLAIN),
        }


@dataclass(frozen=True)
class Scene:
    """What a picture shows. ``style`` is one of its world's or :data:`PLAIN`; ``position`` holds for one object."""

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


def sample_scene(world: World, rng: np.random.Generator, *, plain_share: float = 0.25) -> Scene:
    """Draw one scene; a quarter of all scenes carry no style."""
    style = PLAIN if rng.random() < plain_share else str(rng.choice(tuple(world.styles)))
    count = int(rng.choice((1, 2, 3), p=(0.7, 0.15, 0.15)))
    position = str(rng.choice(tuple(POSITIONS))) if count == 1 else "in the center"
    return Scene(
        object=str(rng.choice(tuple(world.objects))),
        color=str(rng.choice(tuple(world.colors))),
        background=str(rng.choice(tuple(world.backgrounds))),
        style=style,
        count=count,
        position=position,
    )


def sample_scenes(world: World, rng: np.random.Generator, number: int, *, unseen: bool = False) -> list[Scene]:
    """Draw ``number`` scenes, all from the training combinations or all from the held-out ones."""
    scenes: list[Scene] = []
    while len(scenes) < number:
        scene = sample_scene(world, rng)
        if held_out(scene) == unseen:
            scenes.append(scene)
    return scenes
