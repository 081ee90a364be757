"""Families of image models: where the prompt enters each, and what others call its weights, as rows of data."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from .door import (
    DOOR_KINDS,
    REASONS,
    Door,
    DoorError,
    Place,
    Refusal,
    Shapes,
    Sign,
    describe,
    find_doors,
    fits,
    merged,
    some,
)

LORA_NAMINGS = ("kohya", "comfyui", "diffusers")
LAYOUTS = ("one", "beside", "behind")
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
        front_modules: the modules of ComfyUI's tree that ``fronts`` of the text and the pooled vector run.
        diffusers_prefix: what diffusers puts before module names in LoRA files; None where it loads none of the family.
        kohya_tree: whose module paths kohya's trainer writes, one of :data:`TREES`.
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
    kohya_tree: str = "comfyui"
    positions: tuple[str, ...] = ()
    front_modules: tuple[str, ...] = ()

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
        found = find_doors(places, shapes, tree)
        if not found:
            raise DoorError(f"This {self.title} model holds none of the linear maps that read its prompt.")
        return found

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
        chosen = tuple(door for door in doors if door.kind in wanted and any(fits(door, p) for p in patterns))
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
        return merged(chosen)

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
        raise DoorError(f"{self.title} has no linear map {name!r}; its doors are {some([d.name for d in doors])}.")

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
        if naming == "comfyui":
            return f"diffusion_model.{door.comfyui}"
        return f"lora_unet_{getattr(door, self.kohya_tree) or door.comfyui}".replace(".", "_")

    def lora_place(self, door: Door, naming: str) -> LoraRows:
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

    def lora_rows(self, door: Door, naming: str) -> tuple[int, int] | None:
        """The rows of a door's weight that the module of :meth:`lora_name` covers, alone; None: the whole weight.

        Raises:
            DoorError: the module covers more than the door's weight (see :meth:`lora_place`), or as :meth:`lora_name`.
        """
        place = self.lora_place(door, naming)
        if place.height > door.shape[0]:
            raise DoorError(
                f"{self.lora_name(door, naming)} is a fused weight of {place.height} rows, and {door.name} holds "
                f"{door.shape[0]} of them. An edit of a model in diffusers' names has no LoRA under ComfyUI's here."
            )
        return None if place.height == door.shape[0] else place.taken

    def _refuse(self, pattern: str, doors: tuple[Door, ...], shapes: Shapes) -> None:
        """Raise where a pattern fits linear maps of the model and none of them is a door."""
        if any(fits(door, pattern) for door in doors):
            return
        maps = (name.removesuffix(".weight") for name in shapes if name.endswith(".weight"))
        fitting = [name for name in maps if fnmatch.fnmatchcase(name, pattern)]
        if not fitting:
            return
        reason = next((r.reason for r in self.refused for name in fitting if re.fullmatch(r.path, name)), "")
        raise DoorError(
            f"{some(fitting)} of {self.title} cannot be edited: "
            + (f"its input {REASONS[reason]}" if reason else "it is not known as a map of the prompt alone")
            + f". The doors are {some([door.name for door in doors])}."
        )
