"""What other programs read of a LoRA file's metadata: what it is for, and what it does.

By kohya's fields A1111 and Forge tell which models a LoRA is for, and hide it beside others; by those of the ModelSpec
(https://github.com/Stability-AI/ModelSpec, 1.0) SwarmUI, StabilityMatrix and kohya's trainer do.
"""

from __future__ import annotations

from ...families.clip import ENCODERS
from ..measure.weight_edit import WeightEdit

_IMPLEMENTATIONS = {"kohya": "diffusers", "comfyui": "https://github.com/comfyanonymous/ComfyUI"}
_SHOWN = 3


def lora_labels(edit: WeightEdit, naming: str) -> dict[str, str]:
    """The fields, by name; the same for the same edit.

    Args:
        naming: how the file calls the weight, a name of :data:`~.families.clip.NAMINGS`.
    """
    encoder = ENCODERS[edit.encoder]
    changes = [f"{concept.source} -> {concept.target}" for concept in edit.concepts]
    others = len(changes) - _SHOWN
    shown = ", ".join(changes[:_SHOWN]) + (f" and {others} more" if others > 0 else "")
    rank = str(max(1, edit.rank))
    return {
        "ss_base_model_version": encoder.kohya_version,
        "ss_v2": str(encoder.kohya_version.startswith("sd_v2")),
        "ss_network_module": "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": rank,
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{encoder.architecture}/lora",
        "modelspec.implementation": _IMPLEMENTATIONS[naming],
        "modelspec.title": f"Diff-QuickFix: {shown}",
        "modelspec.description": f"Edits a text encoder of {encoder.family}: {shown}. Made by Diff-QuickFix.",
        "modelspec.usage_hint": "Load it with its text encoder part at strength 1. No trigger words.",
        "modelspec.tags": "diff-quickfix, concept edit",
    }
