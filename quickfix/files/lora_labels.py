"""What other programs read of a LoRA file's metadata: what it is for, and what it does.

By kohya's fields A1111 and Forge tell which models a LoRA is for, and hide it beside others; by those of the ModelSpec
(https://github.com/Stability-AI/ModelSpec, 1.0) SwarmUI, StabilityMatrix and kohya's trainer do.
"""

from __future__ import annotations

from ...families.clip import ENCODERS
from ...families.doors import family_named
from ..measure.weight_edit import WeightEdit

_IMPLEMENTATIONS = {
    "kohya": "diffusers",
    "diffusers": "diffusers",
    "comfyui": "https://github.com/comfyanonymous/ComfyUI",
}
_SHOWN = 3
# What kohya's trainer and the ModelSpec call families of image models, where they have a name.
_NAMES = {
    "sd1": ("sd_v1", "stable-diffusion-v1"),
    "sd2": ("sd_v2", "stable-diffusion-v2-768-v"),
    "sdxl": ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base"),
    "sdxl-refiner": ("", "stable-diffusion-xl-v1-refiner"),
    "flux": ("flux1", "flux-1-dev"),
    "sd3": ("sd3", "stable-diffusion-3"),
}


def lora_labels(edit: WeightEdit, naming: str) -> dict[str, str]:
    """The fields, by name; the same for the same edit.

    Args:
        naming: how the file calls the weight, one of :data:`~.families.family.LORA_NAMINGS`.
    """
    changes = [f"{concept.source} -> {concept.target}" for concept in edit.concepts]
    others = len(changes) - _SHOWN
    shown = ", ".join(changes[:_SHOWN]) + (f" and {others} more" if others > 0 else "")
    rank = str(max(1, *(part.rank for part in edit.parts)))
    version, architecture, edits, part = _kind(edit)
    return {
        **({"ss_base_model_version": version, "ss_v2": str(version.startswith("sd_v2"))} if version else {}),
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "modelspec.sai_model_spec": "1.0.0",
        **({"modelspec.architecture": f"{architecture}/lora"} if architecture else {}),
        "modelspec.implementation": _IMPLEMENTATIONS[naming],
        "modelspec.title": f"Diff-QuickFix: {shown}",
        "modelspec.description": f"Edits {edits}: {shown}. Made by Diff-QuickFix.",
        "modelspec.usage_hint": f"Load it with its {part} part at strength 1. No trigger words.",
        "modelspec.tags": "diff-quickfix, concept edit",
    }


def _kind(edit: WeightEdit) -> tuple[str, str, str, str]:
    """kohya's and the ModelSpec's names of the models ("" where they have none), what is edited, and by which part."""
    if edit.of_states:
        family = family_named(edit.encoder)
        return *_NAMES.get(edit.encoder, ("", "")), f"the image model of {family.title}", "image model"
    encoder = ENCODERS[edit.encoder]
    which = "a text encoder" if encoder.causal else " and ".join(ENCODERS[part.encoder].title for part in edit.parts)
    return encoder.kohya_version, encoder.architecture, f"{which} of {encoder.family}", "text encoder"
