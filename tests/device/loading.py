"""The states in which ComfyUI leaves a CLIP on a GPU, made by ComfyUI itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from conditioning import encode

PROMPT = "a red circle on grass, in the style of van gogh"


def has_memory(monkeypatch: Any, size: int) -> None:
    """So many bytes are free for models on the device, and on the CPU; with few, ComfyUI loads parts of a model."""
    import comfy.model_management as management

    def free(device: Any = None, torch_free_too: bool = False) -> Any:
        return (size, size) if torch_free_too else size

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "vram_state", management.VRAMState.NORMAL_VRAM)
    for name in ("minimum_inference_memory", "extra_reserved_memory"):
        monkeypatch.setattr(management, name, lambda: 0)


def where(clip: Any) -> Counter[str]:
    """How many base weights lie on which device."""
    entries = clip.patcher.get_key_patches("clip_l.").values()
    return Counter(entry[0][0].device.type for entry in entries)


def with_lora(clip: Any, parts: tuple[str, ...] = ("self_attn_q_proj", "self_attn_out_proj", "mlp_fc1")) -> Any:
    """A CLIP with a small random LoRA on some linear layers of every block, by ComfyUI's own loader."""
    import comfy.sd

    generator = torch.Generator().manual_seed(4)
    state, lora = clip.cond_stage_model.state_dict(), {}
    for key, weight in state.items():
        name = key.removeprefix("clip_l.transformer.").removesuffix(".weight").replace(".", "_")
        if key.endswith(".weight") and name.endswith(parts):
            for part, shape in (("up", (weight.shape[0], 2)), ("down", (2, weight.shape[1]))):
                lora[f"lora_te_{name}.lora_{part}.weight"] = 0.05 * torch.randn(shape, generator=generator)
    return comfy.sd.load_lora_for_models(None, clip, lora, 0.0, 1.0)[1]


@dataclass(frozen=True)
class State:
    """A state of a CLIP.

    Attributes:
        reach: from a CLIP that was never loaded, and a function that edits one, to a CLIP in this state.
        devices: where its base weights lie then.
        memory: bytes that are free on the device, or None for plenty.
    """

    reach: Callable[[Any, Callable[[Any], Any]], Any]
    devices: frozenset[str]
    memory: int | None = None


def _used(clip: Any) -> Any:
    encode(clip, PROMPT)
    return clip


def _unloaded(clip: Any) -> Any:
    import comfy.model_management as management

    _used(clip)
    management.unload_all_models()
    return clip


def _shrunk(clip: Any) -> Any:
    _used(clip)
    clip.patcher.partially_unload(clip.patcher.offload_device, 600_000)
    return clip


def _behind(clip: Any, edit: Callable[[Any], Any]) -> Any:
    """The original CLIP, after one that is edited was used: its module still carries the edit."""
    _used(edit(clip))
    return clip


_CPU, _DEVICE, _BOTH = frozenset({"cpu"}), frozenset({"pretended"}), frozenset({"cpu", "pretended"})
# Shapes' text encoder has 25 MB of embeddings and 0.8 MB a layer.
STATES = {
    "never used": State(lambda clip, edit: clip, _CPU),
    "used": State(lambda clip, edit: _used(clip), _DEVICE),
    "used, then unloaded": State(lambda clip, edit: _unloaded(clip), _CPU),
    "with a LoRA": State(lambda clip, edit: _used(with_lora(clip)), _BOTH),
    "with a LoRA, not used": State(lambda clip, edit: with_lora(clip), _CPU),
    "with a LoRA on out_proj alone": State(lambda clip, edit: _used(with_lora(clip, ("out_proj",))), _BOTH),
    "behind an edit": State(lambda clip, edit: _used(edit(clip)), _BOTH),
    "behind an edit that is not used": State(lambda clip, edit: edit(_used(clip)), _DEVICE),
    "after another edit": State(_behind, _BOTH),
    "with a LoRA, behind an edit": State(lambda clip, edit: _used(edit(with_lora(clip))), _BOTH),
    "partly unloaded": State(lambda clip, edit: _shrunk(clip), _BOTH),
    "little memory": State(lambda clip, edit: _used(clip), _BOTH, 28_000_000),
    "little memory and a LoRA": State(lambda clip, edit: _used(with_lora(clip)), _BOTH, 28_000_000),
    "no memory": State(lambda clip, edit: _used(clip), _CPU, 1),
}
