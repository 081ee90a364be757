"""What is asked of a model: prompts with a subject for each attribute, and concepts to edit with their captions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..demo_model.architecture import SHAPES_DIT, SHAPES_SD1, SHAPES_XL
from ..demo_model.worlds.captions import caption
from ..demo_model.worlds.world import PLAIN, Scene, World

ATTRIBUTES = ("object", "style", "color", "action", "viewpoint", "count")
WORLDS: dict[str, World] = {one.name: one.world for one in (SHAPES_SD1, SHAPES_XL, SHAPES_DIT)}
"""Of each miniature what it knows."""
_MOST = 24
_PLURALS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Concept:
    """A concept to edit.

    Attributes:
        source, target: what it is, and what it becomes.
        kind: "style", "object" or "fact".
        captions: prompts that name it.
        published: whether the paper edits it.
    """

    source: str
    target: str
    kind: str
    captions: tuple[str, ...]
    published: bool


@dataclass(frozen=True)
class Prompts:
    """What is asked of a model.

    Attributes:
        attributes: prompts by attribute, each with its subject in [brackets].
        concepts: the first is edited at each layer, the first ten at once.
        others: prompts that name none of the concepts that are edited alone.
    """

    attributes: dict[str, tuple[str, ...]]
    concepts: tuple[Concept, ...]
    others: tuple[str, ...]


def prompts_for(model: str) -> Prompts:
    """The prompts for a miniature by its name, from its own world, or for any other model."""
    return _of_world(WORLDS[model]) if model in WORLDS else _general()


def _general() -> Prompts:
    found = json.loads((Path(__file__).parent / "experiments.json").read_text(encoding="utf-8"))
    concepts = [
        Concept(source, target, kind, _named(found["captions"][kind], source), key == "published_pairs")
        for key in ("published_pairs", "further_pairs")
        for source, target, kind in found[key]
    ]
    attributes = {name: tuple(found["attributes"][name]) for name in ATTRIBUTES}
    return Prompts(attributes, tuple(concepts), tuple(found["others"]))


def _of_world(world: World) -> Prompts:
    objects, colors = list(world.objects), list(world.colors)
    places, styles = list(world.backgrounds), list(world.styles)

    def scene(number: int) -> tuple[str, str, str]:
        turn = number // len(objects)
        return objects[number % len(objects)], colors[(number + turn) % len(colors)], places[number % len(places)]

    found: dict[str, dict[str, None]] = {name: {} for name in ("object", "style", "color", "count")}
    for number in range(_MOST):
        thing, color, place = scene(number)
        plain = caption(Scene(thing, color, place))[0]
        style, count = styles[number % len(styles)], 2 + number % 2
        found["object"][plain.replace(f" {thing}", f" [{thing}]", 1)] = None
        found["color"][plain.replace(f" {color}", f" [{color}]", 1)] = None
        styled = caption(Scene(thing, color, place, style))[0]
        found["style"][styled.replace(style, f"[{style}]", 1)] = None
        several = caption(Scene(thing, color, place, PLAIN, count))[0]
        found["count"][several.replace(_PLURALS[count], f"[{_PLURALS[count]}]", 1)] = None
    edited = [(style, "painting", "style") for style in styles[:7]]
    edited += [(objects[number], objects[0], "object") for number in (3, 5, 6)]
    captions = {
        "style": tuple(
            f"a {colors[n]} {objects[-1 - n]} {places[n % len(places)]}, in the style of {{x}}" for n in range(6)
        ),
        "object": tuple(f"a {colors[n]} {{x}} {places[n % len(places)]}" for n in range(6)),
    }
    concepts = tuple(Concept(*one, _named(captions[one[2]], one[0]), False) for one in edited)
    others = tuple(f"a {colors[n]} {objects[n % 3]} {places[-1 - n % len(places)]}" for n in range(6))
    return Prompts({name: tuple(values) for name, values in found.items()}, concepts, others)


def _named(captions: Iterable[str], concept: str) -> tuple[str, ...]:
    return tuple(text.replace("{x}", concept) for text in captions)
