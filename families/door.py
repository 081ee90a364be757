"""Doors: the linear maps of an image model whose input is a function of the prompt alone, found by names and shapes.

Nothing of the picture or of the time step is mixed into what a door reads. Doors are found by the names and shapes of
parameters, so that a live module, a file's header and a folder of diffusers are read alike.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

DOOR_KINDS = ("value", "key", "entrance", "pooled")
TREES = ("comfyui", "diffusers")
# Names of parameters below the image model, with their shapes.
Shapes = Mapping[str, Sequence[int]]


class DoorError(ValueError):
    """A model without known doors, a door that is none, or a name that nothing reads."""


@dataclass(frozen=True)
class Door:
    """A linear map whose input is a function of the prompt alone.

    Attributes:
        name: the path of the module in the tree where it was found, below the image model.
        kind: one of :data:`DOOR_KINDS`. ``value`` and ``key`` are of a cross-attention, ``entrance`` is the one map
            through which the text states enter a joint attention, ``pooled`` reads the vector of the whole prompt.
        shape: (d_out, d_in) of the whole weight.
        bias: whether the map has one.
        rows: (first, end) of the rows of a fused weight that are this door's; None where all are.
        columns: (first, end) of the columns that the prompt's vector fills; None where all are.
        reads: what its input is; doors that read the same share one map of it. "text" for the states of
            :meth:`Family.front`, "pooled" for the vector of the whole prompt; more in families that have two doors
            behind each other.
        comfyui, diffusers: the module's path in each tree; "" where that tree has no such module.
        part: (index, count) of the equal parts of ComfyUI's fused weight, of which this door is one; diffusers has a
            module for each. None where the weight is not fused.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    bias: bool
    rows: tuple[int, int] | None = None
    columns: tuple[int, int] | None = None
    reads: str = "text"
    comfyui: str = field(default="", compare=False)
    diffusers: str = field(default="", compare=False)
    part: tuple[int, int] | None = field(default=None, compare=False)

    @property
    def weight(self) -> str:
        """The name of the weight."""
        return f"{self.name}.weight"

    @property
    def width(self) -> int:
        """How wide the states are that the door reads."""
        first, end = self.columns or (0, self.shape[1])
        return end - first


@dataclass(frozen=True)
class Place:
    """Where doors of one kind are: a path in each tree, ``{}`` in place of a block's number.

    Attributes:
        comfyui, diffusers: the paths; "" where the tree has no such module.
        columns: those that the prompt's vector fills, computed from the weight's (d_out, d_in).
        part: (index, count) of the equal parts of ComfyUI's fused weight; diffusers has a module for each.
        reads: what the doors read; "": "pooled" of pooled doors, else "text".
        order: doors of a lower order come first; those of one order go block by block.
    """

    kind: str
    comfyui: str
    diffusers: str = ""
    columns: Callable[[tuple[int, int]], tuple[int, int]] | None = None
    part: tuple[int, int] | None = None
    reads: str = ""
    order: int = 0

    def path(self, tree: str) -> str:
        """The path in a tree, one of :data:`TREES`."""
        return self.comfyui if tree == "comfyui" else self.diffusers


# Why a linear map is no door, as the end of a sentence about its input.
REASONS = {
    "picture": "depends on the picture",
    "time": "depends on the time step",
    "guidance": "is the guidance",
    "door": "is what a door gives, changed further on its way: edit the door",
    "before": "is the prompt's alone, but what it gives is mixed before a door reads it: edit the door",
}


@dataclass(frozen=True)
class Refusal:
    """Linear maps that are no doors.

    Attributes:
        path: a regular expression of module paths, in either tree.
        reason: a key of :data:`REASONS`: their input depends on the picture, or not on it but on the time step, or is
            the guidance, or depends on the prompt alone but stands behind or before a door.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class Sign:
    """What shows that a tree is a family's.

    Attributes:
        tree: one of :data:`TREES`.
        has, lacks: names of parameters.
        test: what else must be true of the shapes.
    """

    tree: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    test: Callable[[Shapes], bool] | None = None

    def fits(self, shapes: Shapes) -> bool:
        """Whether the tree is the family's."""
        return (
            all(name in shapes for name in self.has)
            and not any(name in shapes for name in self.lacks)
            and (self.test is None or self.test(shapes))
        )


def width_of(shapes: Shapes, name: str) -> int:
    """The second dimension of a matrix, such as a linear map's input width; 0 where there is no such matrix."""
    shape = shapes.get(name, ())
    return int(shape[1]) if len(shape) == 2 else 0


def height_of(shapes: Shapes, name: str) -> int:
    """The first dimension of a parameter; 0 where there is none."""
    shape = shapes.get(name, ())
    return int(shape[0]) if len(shape) else 0


def fits(door: Door, pattern: str) -> bool:
    """Whether a shell pattern is of a door's name in any tree."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (door.name, door.comfyui, door.diffusers) if name)


def find_doors(places: Iterable[Place], shapes: Shapes, tree: str) -> tuple[Door, ...]:
    """The doors of a model in the order in which they run, pooled ones last.

    Raises:
        DoorError: a door's weight is no matrix.
    """
    return tuple(door for _, door in sorted(_sorted_by(places, shapes, tree), key=lambda pair: pair[0]))


def _sorted_by(places: Iterable[Place], shapes: Shapes, tree: str) -> Iterator[tuple[tuple[int, ...], Door]]:
    """Doors with what they are sorted by."""
    for index, place in enumerate(places):
        for numbers, path in _paths(place.path(tree), shapes):
            shape = tuple(int(size) for size in shapes[f"{path}.weight"])
            if len(shape) != 2:
                raise DoorError(f"{path}.weight has the shape {shape}; expected a matrix of two dimensions.")
            names = {other: place.path(other).replace("{}", "%d") % numbers for other in TREES if place.path(other)}
            door = Door(
                path,
                place.kind,
                (shape[0], shape[1]),
                f"{path}.bias" in shapes,
                rows=_rows_of(place.part, shape[0]) if place.part and tree == "comfyui" else None,
                columns=place.columns((shape[0], shape[1])) if place.columns else None,
                reads=place.reads or ("pooled" if place.kind == "pooled" else "text"),
                part=place.part,
                **names,
            )
            yield (place.kind == "pooled", place.order, *numbers, index), door


def merged(doors: Iterable[Door]) -> tuple[Door, ...]:
    """The doors, with those of one fused weight as one: a weight is patched once."""
    found: dict[str, list[Door]] = {}
    for door in doors:
        found.setdefault(door.name, []).append(door)
    return tuple(_one_of(same) for same in found.values())


def _one_of(doors: Sequence[Door]) -> Door:
    """The door of all chosen rows of a weight, which stand beside each other."""
    if len(doors) == 1:
        return doors[0]
    rows = [door.rows or (0, door.shape[0]) for door in doors]
    first, end = min(start for start, _ in rows), max(end for _, end in rows)
    whole = (first, end) == (0, doors[0].shape[0])
    return replace(doors[0], kind="value", rows=None if whole else (first, end), diffusers="", part=None)


def _rows_of(part: tuple[int, int], height: int) -> tuple[int, int]:
    """The rows of one of several equal parts of a weight."""
    index, count = part
    return index * height // count, (index + 1) * height // count


def _paths(template: str, shapes: Shapes) -> Iterator[tuple[tuple[int, ...], str]]:
    """The modules of a tree that a template names, with their numbers."""
    if not template:
        return
    if "{}" not in template:
        if f"{template}.weight" in shapes:
            yield (), template
        return
    pattern = re.escape(template).replace(r"\{\}", r"(\d+)") + r"\.weight"
    for name in shapes:
        if found := re.fullmatch(pattern, name):
            yield tuple(int(number) for number in found.groups()), name.removesuffix(".weight")


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def describe(shapes: Shapes) -> str:
    """How many parameters there are, and the first of their names."""
    return f"{len(shapes)} parameters ({some(sorted(map(str, shapes)))})" if shapes else "no parameters"
