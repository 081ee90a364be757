"""ComfyUI's MODEL objects, as the editor sees them: the doors of an image model, their weights, and patches of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from comfy.weight_adapter import LoRAAdapter

from ....families.doors import CONDITIONING, Door, DoorError, Family, family_of
from ....families.family import states_as_they_are
from ....quickfix import EditReport, WeightEdit, weight_hash
from ..objects import Model
from .base_weights import BaseWeights, is_dynamic

_PREFIX = "diffusion_model."
BY_CONDITIONING = (
    'Its prompts can be edited: choose the maps "conditioning alone" in Edit Image Model, and give its edit and the '
    "encoded prompt to Apply Edit to Conditioning."
)


@dataclass(frozen=True)
class ImageModel:
    """The image model of a MODEL: its family and its base weights."""

    family: Family
    weights: BaseWeights
    patch_dtype: torch.dtype

    def doors(self, *, kinds: Sequence[str] | None = None, names: str | None = None) -> tuple[Door, ...]:
        """Some of its doors (see :meth:`Family.select` for the arguments and errors)."""
        return self.family.select(self.weights.shapes(), kinds=kinds, names=names)

    def read(self, door: Door) -> torch.Tensor:
        """A door's weight, wherever it lies."""
        return self.weights[door.weight]

    def has(self, doors: Sequence[Door]) -> bool:
        """Whether it has some doors, of the same shapes."""
        shapes = self.weights.shapes()
        return all(shapes.get(door.weight) == tuple(door.shape) for door in doors)


def open_image_model(model: Model, *, conditioning: bool = False) -> ImageModel:
    """Read what an image model is, without touching it.

    Args:
        conditioning: for an edit of the conditioning alone, which any model has: its family is then
            :data:`CONDITIONING` where none is known, and where its modules make other states of the conditioning.

    Raises:
        DoorError: it is of no family whose doors are known; of one that is given the prompt in other ways too.
    """
    weights = BaseWeights(model, _PREFIX, dequantize=True)
    dtype = torch.float32
    if not is_dynamic(model):
        dtype = comfy.model_management.lora_compute_dtype(model.load_device)
    try:
        family = family_of(weights.shapes())
    except DoorError as error:
        if not conditioning:
            raise DoorError(f"{error} {BY_CONDITIONING}") from error
        return ImageModel(CONDITIONING, weights, dtype)
    if conditioning and family.front_of is not states_as_they_are:
        if family.positions:
            raise DoorError(
                f"An image model of {family.title} is given the prompt's tokens beside its text states: an edit of the "
                "conditioning alone would leave them. Choose other maps."
            )
        family = CONDITIONING
    return ImageModel(family, weights, dtype)


def patch_doors(model: Model, edit: WeightEdit, strength: float) -> Model:
    """A clone of ``model`` with the edit's doors patched at ``strength``, as LoRAs are; at strength 0, a clone with no
    patch at all.

    Raises:
        RuntimeError: ComfyUI did not take a patch.
    """
    edited = model.clone()
    if strength == 0:
        return edited
    patches = {}
    for update in edit.doors:
        factors = edit.factors(update)
        if factors.rank:
            patches[_PREFIX + update.door.weight] = LoRAAdapter(
                set(), (factors.up, factors.down, None, None, None, None)
            )
    missing = sorted(patches.keys() - set(edited.add_patches(patches, strength)))
    if missing:
        raise RuntimeError(f"ComfyUI did not accept the edit: it knows no weight named {missing[0]} in this MODEL.")
    return edited


def stored_door_report(image_model: ImageModel, edit: WeightEdit, report: EditReport, strength: float) -> EditReport:
    """A report with what rounding the first patched door to the model's own type costs."""
    report = dataclasses.replace(report, basis=image_model.weights.basis())
    if not edit.doors or not image_model.weights.is_plain(edit.doors[0].door.weight):
        return report
    first = edit.doors[0]
    weight = image_model.read(first.door).float().cpu()
    dtype = image_model.weights.stored_dtype(first.door.weight)
    factors = edit.factors(first)
    return report.with_storage(weight, (factors.up * strength) @ factors.down, dtype, image_model.patch_dtype)


def foreign_doors_note(image_model: ImageModel, edit: WeightEdit) -> str:
    """A line that says that the edit was computed from another model; nothing where it was not."""
    if edit.base in ("", weight_hash(image_model.read(edit.doors[0].door))):
        return ""
    return "This is not the model that the edit was computed from.\n"
