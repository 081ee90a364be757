"""Doors and families: where the prompt enters an image model, as rows of data.

A door is a linear map whose input is a function of the prompt alone, before anything of the picture or of the time step
is mixed in. Doors are found by the names and shapes of parameters, so that a live module, a file's header and a folder
of diffusers are read alike.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

DOOR_KINDS = ("value", "key", "entrance", "pooled")
TREES = ("comfyui", "diffusers")
LORA_NAMINGS = ("kohya", "comfyui", "diffusers")
LAYOUTS = ("one", "beside", "behind")
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


Front = Callable[[Any, Tensor, Mapping[str, Any]], Tensor]


def states_as_they_are(module: nn.Module | None, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    """The conditioning's states, of a family whose doors read them as they are."""
    return states


@dataclass(frozen=True)
class LoraRows:
    """Where a door's rows stand in the module of a LoRA file.

    Attributes:
        taken: (first, end) of the rows of the door's own weight.
        put: (first, end) of the same rows in the file's module; its other rows are zero.
        height: of the file's module.
    """

    taken: tuple[int, int]
    put: tuple[int, int]
    height: int


@dataclass(frozen=True)
class Family:
    """Image models of one architecture.

    Attributes:
        name: "sdxl", "anima", "z-image", "flux", ...
        title: what people call them.
        attention: how the states that the doors read were made, by the text encoder and by what stands between it and
            the doors: "causal" (a token knows what stands before it) or "bidirectional".
        encoders: the token streams (the keys of ComfyUI's ``clip.tokenize(text)``) whose states the doors read, in the
            order in which they stand in the conditioning.
        positions: the token streams by which the doors' states are counted, where they are not ``encoders``.
        layout: one of :data:`LAYOUTS`: the states of several encoders stand beside each other (SDXL: width by width) or
            behind each other (along the sequence).
        pooled: how the vector is made that the pooled doors read; "" where there is none.
        negative: whether a negative prompt works in all stock settings of the family.
        guidance: a sentence that says why.
        places: where the doors are; computed from the shapes and the tree's naming where they differ by model.
        signs: what shows that a tree is this family's, one for each form in which it is found.
        refused: linear maps that look like doors and are none.
        default_kinds: the kinds that are edited where nobody chooses.
        fronts: makes what doors read out of the conditioning, by :attr:`Door.reads`; as it is where there is none.
        diffusers_prefix: what diffusers puts before module names in LoRA files; None where it loads none of the family.
    """

    name: str
    title: str
    attention: str
    encoders: tuple[str, ...]
    layout: str
    pooled: str
    negative: bool
    guidance: str
    places: tuple[Place, ...] | Callable[[Shapes, str], tuple[Place, ...]] = field(repr=False)
    signs: tuple[Sign, ...] = field(repr=False)
    refused: tuple[Refusal, ...] = field(default=(), repr=False)
    default_kinds: tuple[str, ...] = ("entrance", "pooled")
    fronts: Mapping[str, Front] = field(default_factory=dict, repr=False, hash=False)
    diffusers_prefix: str | None = None
    positions: tuple[str, ...] = ()

    def tree(self, shapes: Shapes) -> str:
        """Whose names the parameters have, one of :data:`TREES`; "" where they are not this family's."""
        return next((sign.tree for sign in self.signs if sign.fits(shapes)), "")

    @property
    def front_of(self) -> Front:
        """What makes the states that the text doors read; :func:`states_as_they_are` where nothing does."""
        return self.fronts.get("text", states_as_they_are)

    def doors(self, shapes: Shapes) -> tuple[Door, ...]:
        """All doors of a model, in the order in which they run, pooled ones last.

        Raises:
            DoorError: the model is not of this family, or a door's weight is no matrix.
        """
        tree = self.tree(shapes)
        if not tree:
            raise DoorError(f"Found {describe(shapes)}; expected the names of {self.title}.")
        places = self.places if isinstance(self.places, tuple) else self.places(shapes, tree)
        found = sorted(_found(places, shapes, tree), key=lambda pair: pair[0])
        if not found:
            raise DoorError(f"This {self.title} model holds none of the linear maps that read its prompt.")
        return tuple(door for _, door in found)

    def select(
        self, shapes: Shapes, *, kinds: Sequence[str] | None = None, names: str | None = None
    ) -> tuple[Door, ...]:
        """The doors of some kinds whose names fit one of several patterns.

        Keys and values of one fused weight, both chosen, are one door, of the kind "value": a weight is named once.

        Args:
            kinds: of :data:`DOOR_KINDS`; None: the family's default kinds, or all where names are given.
            names: shell patterns divided by commas or spaces, of paths in either tree.

        Raises:
            DoorError: nothing fits, or a pattern fits linear maps that are no doors alone.
        """
        doors = self.doors(shapes)
        patterns = (names or "*").replace(",", " ").split()
        if names is not None:
            for pattern in patterns:
                self._refuse(pattern, doors, shapes)
        wanted = tuple(kinds) if kinds is not None else DOOR_KINDS if names is not None else self.default_kinds
        chosen = tuple(door for door in doors if door.kind in wanted and any(_fits(door, p) for p in patterns))
        if not chosen:
            there = ", ".join(door.name for door in doors[:6]) + (", ..." if len(doors) > 6 else "")
            raise DoorError(
                f"No door of {self.title} fits kinds {', '.join(wanted) or 'none'} and names {names or '*'}; "
                f"this model has {there}."
            )
        reads = {door.reads: door for door in chosen if door.reads != "pooled"}
        if len(reads) > 1:
            names_found = " and ".join(door.name for door in reads.values())
            raise DoorError(
                f"{names_found} stand behind each other: what one gives, the other reads. Edit one of them."
            )
        return chosen

    def door(self, shapes: Shapes, name: str) -> Door:
        """The door of a name, in either tree.

        Raises:
            DoorError: there is none of that name; the message says what the map's input depends on.
        """
        doors = self.doors(shapes)
        for door in doors:
            if name in (door.name, door.comfyui, door.diffusers):
                return door
        self._refuse(name, doors, shapes)
        raise DoorError(f"{self.title} has no linear map {name!r}; its doors are {_some([d.name for d in doors])}.")

    def front(
        self,
        module: nn.Module | None,
        states: Tensor,
        extras: Mapping[str, Any] | None = None,
        reads: str = "text",
    ) -> Tensor:
        """What doors read, made out of the conditioning by the model's own modules without a picture.

        The model's modules compute in the precision and on the device of the states: hand them over as the model would
        get them.

        Args:
            module: the image model, in ComfyUI's or diffusers' tree; None will do where doors read the conditioning
                as it is.
            states: the conditioning's text states, (n, tokens, width), or the pooled vectors, (n, width).
            extras: what else the conditioning holds for the text, by ComfyUI's names.
            reads: :attr:`Door.reads` of the doors.

        Returns:
            (n, tokens, width) that the doors read, or (n, width); ``columns`` of a pooled door are these.

        Raises:
            DoorError: the model is missing, or is not of this family.
        """
        front = self.fronts.get(reads)
        if front is None:
            return states
        if module is None:
            raise DoorError(f"The doors of {self.title} read what its own modules make of the prompt: give the model.")
        try:
            return front(module, states, extras or {})
        except AttributeError as error:
            raise DoorError(f"{type(module).__name__} is not of {self.title}: {error}") from error

    def lora_name(self, door: Door, naming: str) -> str:
        """What a LoRA file calls a door's module, without ``.lora_up.weight`` and so on.

        Args:
            naming: "kohya", "comfyui" (also diffusers' for some) or "diffusers"; see :data:`LORA_NAMINGS`.

        Raises:
            DoorError: nobody reads such a name for this family, or the naming is unknown.
        """
        if naming not in LORA_NAMINGS:
            raise DoorError(f"Unknown LoRA naming {naming!r}; expected one of {', '.join(LORA_NAMINGS)}.")
        if naming == "diffusers":
            if self.diffusers_prefix is None or not door.diffusers:
                raise DoorError(
                    f"diffusers loads no LoRA of {door.comfyui or door.name} in {self.title} under names of its own. "
                    'Save with the naming "comfyui".'
                )
            return f"{self.diffusers_prefix}{door.diffusers}"
        if not door.comfyui:
            raise DoorError(f"ComfyUI's {self.title} has no module for {door.name}.")
        return (
            f"diffusion_model.{door.comfyui}" if naming == "comfyui" else f"lora_unet_{door.comfyui}".replace(".", "_")
        )

    def lora_rows(self, door: Door, naming: str) -> LoraRows:
        """Where a door's rows stand in the module that :meth:`lora_name` names.

        Raises:
            DoorError: as :meth:`lora_name` does.
        """
        self.lora_name(door, naming)
        first, end = door.rows or (0, door.shape[0])
        size = end - first
        if door.part is None:
            return LoraRows((first, end), (first, end), door.shape[0])
        index, count = door.part
        if naming == "diffusers":
            return LoraRows((first, end), (0, size), size)
        return LoraRows((first, end), (index * size, (index + 1) * size), count * size)

    def _refuse(self, pattern: str, doors: tuple[Door, ...], shapes: Shapes) -> None:
        """Raise where a pattern fits linear maps of the model and none of them is a door."""
        if any(_fits(door, pattern) for door in doors):
            return
        maps = (name.removesuffix(".weight") for name in shapes if name.endswith(".weight"))
        fitting = [name for name in maps if fnmatch.fnmatchcase(name, pattern)]
        if not fitting:
            return
        reason = next((r.reason for r in self.refused for name in fitting if re.fullmatch(r.path, name)), "")
        raise DoorError(
            f"{_some(fitting)} of {self.title} cannot be edited: "
            + (f"its input {REASONS[reason]}" if reason else "it is not known as a map of the prompt alone")
            + f". The doors are {_some([door.name for door in doors])}."
        )


def width_of(shapes: Shapes, name: str) -> int:
    """The second dimension of a matrix, such as a linear map's input width; 0 where there is no such matrix."""
    shape = shapes.get(name, ())
    return int(shape[1]) if len(shape) == 2 else 0


def height_of(shapes: Shapes, name: str) -> int:
    """The first dimension of a parameter; 0 where there is none."""
    shape = shapes.get(name, ())
    return int(shape[0]) if len(shape) else 0


def _fits(door: Door, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (door.name, door.comfyui, door.diffusers) if name)


def _found(places: Iterable[Place], shapes: Shapes, tree: str) -> Iterator[tuple[tuple[int, ...], Door]]:
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


def _by_name(doors: Iterable[Door]) -> dict[str, list[Door]]:
    found: dict[str, list[Door]] = {}
    for door in doors:
        found.setdefault(door.name, []).append(door)
    return found


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
    pattern = re.compile(re.escape(template).replace(r"\{\}", r"(\d+)") + r"\.weight")
    for name in shapes:
        if found := pattern.fullmatch(name):
            yield tuple(int(number) for number in found.groups()), name.removesuffix(".weight")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def describe(shapes: Shapes) -> str:
    """How many parameters there are, and the first of their names."""
    return f"{len(shapes)} parameters ({_some(sorted(map(str, shapes)))})" if shapes else "no parameters"
