"""The families of image models whose doors are known, and which of them a model is."""

from __future__ import annotations

from .door import DOOR_KINDS, Door, DoorError, Shapes, describe
from .family import LORA_NAMINGS, Family
from .image_models import cosmos, flux, hunyuan, krea, lumina, mmdit, projected, unet

__all__ = [
    "CONDITIONING",
    "DOOR_KINDS",
    "FAMILIES",
    "LORA_NAMINGS",
    "Door",
    "DoorError",
    "Family",
    "Shapes",
    "family_named",
    "family_of",
]

FAMILIES: tuple[Family, ...] = (
    unet.SDXL,
    unet.SDXL_REFINER,
    unet.SD1,
    unet.SD2,
    cosmos.ANIMA,
    cosmos.COSMOS,
    lumina.Z_IMAGE,
    lumina.LUMINA2,
    lumina.NEWBIE,
    flux.FLUX,
    flux.CHROMA,
    flux.FLUX2,
    flux.KLEIN_4B,
    flux.KLEIN_9B,
    flux.LONGCAT,
    flux.OVIS,
    krea.KREA2,
    mmdit.QWEN_IMAGE,
    mmdit.SD3,
    projected.WAN,
    projected.PIXART,
    hunyuan.HUNYUAN_IMAGE,
)


CONDITIONING = Family(
    "conditioning",
    "any model, by its conditioning alone",
    "bidirectional",
    (),
    "one",
    "what the conditioning holds",
    True,
    "Whether a negative prompt works depends on the guidance.",
    (),
    (),
)
"""What an edit of a conditioning alone is of, where a model is of no known family or makes other states of its text."""


def family_of(shapes: Shapes) -> Family:
    """The family of an image model, by the names and shapes of its parameters.

    Args:
        shapes: ``{name: tensor.shape}`` below the image model, in ComfyUI's or diffusers' names; a checkpoint's
            ``model.diffusion_model.`` is cut off.

    Raises:
        DoorError: it is of none of :data:`FAMILIES`.
    """
    found = [family for family in FAMILIES if family.tree(shapes)]
    if len(found) == 1:
        return found[0]
    several = f", which fit several families ({', '.join(family.name for family in found)})" if found else ""
    raise DoorError(
        f"Found {describe(shapes)}{several}; expected an image model of {'; '.join(f.title for f in FAMILIES)}. "
        "The maps of other models that read the text are not known."
    )


def family_named(name: str) -> Family:
    """The family of a name.

    Raises:
        DoorError: there is none.
    """
    for family in (*FAMILIES, CONDITIONING):
        if family.name == name:
            return family
    raise DoorError(f"Unknown family {name!r}; expected one of {', '.join(family.name for family in FAMILIES)}.")
