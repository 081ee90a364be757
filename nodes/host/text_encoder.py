"""ComfyUI's CLIP objects, as the editor sees them: a tower of base weights, a tokenizer, and a way to apply an edit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from ...quickfix import ENCODERS, EditReport, LowRank, TextTower, WeightEdit, device_of_most, measure_final, weight_hash
from ...text.prompts import PromptTokenizer
from .objects import Clip

_TEXT_MODEL = "transformer.text_model."
# Which CLIP text towers carry one causal state: Basu et al. 2024 for Stable Diffusion 1.x and 2.x.
_EDITABLE = {name: encoder.family for name, encoder in ENCODERS.items() if encoder.causal}
# Quantized weights are tensors of other types.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Bytes that must be free on a GPU for an edit to be computed there.
_ROOM = 2**30


class UnsupportedEncoderError(ValueError):
    """The CLIP holds no text encoder that Diff-QuickFix can edit."""


class _BaseWeights(Mapping[str, torch.Tensor]):
    """CLIP's parameter names to unpatched weights.

    They are read through ``get_key_patches``: the module's own tensors may carry another node's patches at this moment.
    It gives a weight that is patched from its backup, on the CPU, and every other where it is. With dynamic VRAM the
    weights are the file's own, in the file's type; the model computes with what they are in its own type.
    """

    def __init__(self, clip: Clip, prefix: str) -> None:
        self._prefix = prefix
        self._patches = clip.patcher.get_key_patches(prefix)
        self._model = clip.cond_stage_model if is_dynamic(clip) else None

    def __getitem__(self, name: str) -> torch.Tensor:
        weight, convert = self._patches[self._prefix + name][0]
        _refuse_quantized(self._prefix + name, weight)
        return convert(weight).to(self.stored_dtype(name))

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._patches)

    def __len__(self) -> int:
        return len(self._patches)

    def stored_dtype(self, name: str) -> torch.dtype:
        """The type in which the model keeps a weight."""
        own = self._patches[self._prefix + name][0][0].dtype
        if self._model is None:
            return own
        module, _, parameter = (self._prefix + name).rpartition(".")
        return getattr(comfy.utils.get_attr(self._model, module), f"{parameter}_comfy_model_dtype", None) or own

    def device(self) -> torch.device:
        """Where an edit is computed: where most of the weights lie, so that it does not wait for a whole encoder to be
        moved; the CPU where that GPU is nearly full or has no fp64."""
        device = device_of_most(entries[0][0] for entries in self._patches.values())
        if device.type != "cpu" and comfy.model_management.get_free_memory(device) < _ROOM:
            return torch.device("cpu")
        return device


def is_dynamic(clip: Clip) -> bool:
    """Whether ComfyUI brings the weights to the GPU one by one while they are used (dynamic VRAM)."""
    return bool(getattr(clip.patcher, "is_dynamic", lambda: False)())


def _refuse_quantized(key: str, weight: torch.Tensor) -> None:
    if type(weight) in _PLAIN and weight.dtype.is_floating_point:
        return
    kind = f"{type(weight).__name__} of {weight.dtype}"
    raise UnsupportedEncoderError(
        f"The text encoder's weights are quantized ({key} is a {kind}); a closed-form edit needs plain fp16, bf16 or "
        "fp32 weights. Load the text encoder unquantized (a safetensors file, not GGUF, 4-bit or scaled fp8)."
    )


@dataclass(frozen=True)
class TextEncoder:
    """The editable text encoder of a CLIP: its base weights, its tokenizer and the key prefix of its weights.

    Attributes:
        storage_dtype: the type in which the model keeps the weights.
        patch_dtype: the type in which ComfyUI adds a patch to them.
    """

    tower: TextTower
    tokenizer: PromptTokenizer
    prefix: str
    storage_dtype: torch.dtype
    patch_dtype: torch.dtype


def only_encoder(clip: Clip) -> tuple[str, Any]:
    """The name ("clip_l", "clip_h") and the module of a CLIP's one text encoder.

    Raises:
        UnsupportedEncoderError: it has none of these, or several encoders.
    """
    model = clip.cond_stage_model
    names = sorted(name for name, child in model.named_children() if hasattr(child, "transformer"))
    if len(names) != 1 or names[0] not in _EDITABLE:
        found = ", ".join(names) or type(model).__name__
        raise UnsupportedEncoderError(
            f"This CLIP cannot be traced or edited by Diff-QuickFix: found {found}, expected one CLIP text encoder ("
            + ", ".join(f"{name} of {family}" for name, family in _EDITABLE.items())
            + "). Models with several encoders or with T5 (SDXL, SD3, Flux) hold no single causal state in the text "
            "encoder. Connect the CLIP of a Stable Diffusion 1.x or 2.x checkpoint."
        )
    return names[0], getattr(model, names[0])


def open_text_encoder(clip: Clip) -> TextEncoder:
    """Read the text encoder of a CLIP without touching it.

    Raises:
        UnsupportedEncoderError: the CLIP has no CLIP-L or CLIP-H tower of its own, has several encoders, or its weights
            are quantized.
    """
    name, encoder = only_encoder(clip)
    prefix = f"{name}.{_TEXT_MODEL}"
    weights = _BaseWeights(clip, prefix)
    layers = encoder.transformer.text_model.encoder.layers
    tower = TextTower.from_weights(
        weights,
        heads=layers[0].self_attn.heads,
        activation=ENCODERS[name].activation,
        encoder=name,
        device=weights.device(),
    )
    own = getattr(clip.tokenizer, name)
    tokenizer = PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=encoder.max_length)
    return TextEncoder(tower, tokenizer, prefix, weights.stored_dtype(tower.out_proj_name(0)), _patch_dtype(clip))


def _patch_dtype(clip: Clip) -> torch.dtype:
    if is_dynamic(clip):
        return torch.float32  # ComfyUI computes text encoders in fp32, and patches what it brings to the GPU
    return comfy.model_management.lora_compute_dtype(clip.patcher.load_device)


def apply_edit(clip: Clip, encoder: TextEncoder, edit: WeightEdit, strength: float) -> Clip:
    """A clone of ``clip`` with the edit patched in at ``strength``; at strength 0, a clone with no patch at all.

    Raises:
        RuntimeError: ComfyUI did not take the patch (the weight's name or shape is not what was expected).
    """
    edited = clip.clone()
    if strength == 0:
        return edited
    key = encoder.prefix + edit.weight_name
    applied = edited.add_patches({key: ("diff", (edit.delta(),))}, strength)
    if key not in applied:
        raise RuntimeError(f"ComfyUI did not accept the edit: it knows no weight named {key} in this CLIP.")
    return edited


def stored_report(encoder: TextEncoder, edit: WeightEdit, strength: float) -> EditReport:
    """The edit's report with what only the whole text encoder tells, at ``strength``: what rounding the patched weight
    to the model's own dtype costs, and how far the last hidden states move."""
    update = LowRank(edit.up * strength, edit.down)
    report = edit.report.with_final(measure_final(encoder.tower, edit.settings.layer, update, encoder.tokenizer))
    weight, delta = encoder.tower.weight(edit.weight_name), edit.delta(strength)
    return report.with_storage(weight, delta, encoder.storage_dtype, encoder.patch_dtype)


def foreign_note(encoder: TextEncoder, edit: WeightEdit) -> str:
    """A line that says that the edit was computed from another model; nothing where it was not."""
    if edit.base in ("", weight_hash(encoder.tower.weight(edit.weight_name))):
        return ""
    return "This is not the model that the edit was computed from.\n"
