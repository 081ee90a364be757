"""ComfyUI's CLIP objects, as the editor sees them: a tower of base weights, a tokenizer, and a way to apply an edit."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP
from comfy.sdxl_clip import SDXLClipModel
from comfy.text_encoders.flux import FluxClipModel
from comfy.text_encoders.sd3_clip import SD3ClipModel

from ....quickfix import ENCODERS, EditReport, LowRank, TextTower, WeightEdit, measure_final, require_fit, weight_hash
from ....quickfix.edit import report_at
from ....text.prompts import PromptTokenizer
from ..objects import Clip
from .base_weights import BaseWeights, is_dynamic

_TEXT_MODEL = "transformer.text_model."
# Which CLIP text towers carry one causal state: Basu et al. 2024 for Stable Diffusion 1.x and 2.x.
_CAUSAL = {name: encoder.family for name, encoder in ENCODERS.items() if encoder.causal}
# Names of towers by which people choose, with "both" for all that a CLIP has; "auto" does so too.
ENCODER_CHOICES = ("auto", "clip_l", "clip_g", "both")


class UnsupportedEncoderError(ValueError):
    """The CLIP holds no text encoder that Diff-QuickFix can edit."""


@dataclass(frozen=True)
class TextEncoder:
    """The editable text encoder of a CLIP: its base weights, its tokenizer and the key prefix of its weights.

    Attributes:
        storage_dtype: the type in which the model keeps the weights.
        patch_dtype: the type in which ComfyUI adds a patch to them.
        basis: which patches of the CLIP the tower's weights have, in words (see :attr:`EditReport.basis`).
    """

    tower: TextTower
    tokenizer: PromptTokenizer
    prefix: str
    storage_dtype: torch.dtype
    patch_dtype: torch.dtype
    basis: str = ""


def only_encoder(clip: Clip) -> tuple[str, Any]:
    """The name ("clip_l", "clip_h") and the module of a CLIP's one text encoder.

    Raises:
        UnsupportedEncoderError: it has none of these, or several encoders.
    """
    names = _modules(clip)
    if len(names) != 1 or names[0] not in _CAUSAL:
        raise UnsupportedEncoderError(
            f"This CLIP has not the one text encoder that is read here: found {_found(clip)}, expected one CLIP text "
            "encoder ("
            + ", ".join(f"{name} of {family}" for name, family in _CAUSAL.items())
            + "). Connect the CLIP of a Stable Diffusion 1.x or 2.x checkpoint."
        )
    return names[0], getattr(clip.cond_stage_model, names[0])


def _modules(clip: Clip) -> list[str]:
    """The names of a CLIP's text encoders, of CLIP's kind or not."""
    return sorted(name for name, child in clip.cond_stage_model.named_children() if hasattr(child, "transformer"))


def _found(clip: Clip) -> str:
    return ", ".join(_modules(clip)) or type(clip.cond_stage_model).__name__


def encoders_of(clip: Clip) -> tuple[str, ...]:
    """The text towers of a CLIP that can be edited, keys of :data:`ENCODERS`, CLIP-L first; none for other models."""
    model, names = clip.cond_stage_model, _modules(clip)
    if isinstance(model, SDXLClipModel):
        family = "sdxl"
    elif isinstance(model, SD3ClipModel):
        family = "sd3"
    elif isinstance(model, FluxClipModel):
        family = "flux"
    else:
        return (names[0],) if len(names) == 1 and names[0] in _CAUSAL else ()
    towers = [name for name in ("clip_l", "clip_g") if name in names and f"{family}_{name}" in ENCODERS]
    return tuple(f"{family}_{name}" for name in towers)


def open_text_encoders(clip: Clip, choice: str = ENCODER_CHOICES[0]) -> tuple[TextEncoder, ...]:
    """Read the text towers of a CLIP without touching it.

    Args:
        choice: one of :data:`ENCODER_CHOICES`.

    Raises:
        UnsupportedEncoderError: the CLIP has no tower that can be edited, or not the chosen one.
        QuantizedWeightError: its weights hold no plain numbers.
    """
    names = encoders_of(clip)
    if not names:
        raise UnsupportedEncoderError(
            f"This CLIP cannot be edited: found {_found(clip)}, expected a CLIP text encoder of Stable Diffusion 1.x, "
            "2.x or 3, SDXL or Flux.1. Use Remove Concept, which edits the image model where its text enters."
        )
    chosen = names
    if choice == "both" and len(names) < 2:
        chosen = ()
    elif choice in ENCODER_CHOICES[1:3]:
        chosen = tuple(name for name in names if ENCODERS[name].module == choice)
    if not chosen:
        raise UnsupportedEncoderError(
            f"This CLIP has no text encoder {choice!r}: found {', '.join(ENCODERS[name].module for name in names)} of "
            f'{ENCODERS[names[0]].family}. Choose one of these, or "auto".'
        )
    return tuple(_opened(clip, name) for name in chosen)


def open_text_encoder(clip: Clip) -> TextEncoder:
    """Read the text tower of a CLIP that has one, without touching it.

    Raises:
        UnsupportedEncoderError: the CLIP has none that can be edited, or several.
        QuantizedWeightError: see :func:`open_text_encoders`.
    """
    encoders = open_text_encoders(clip)
    if len(encoders) > 1 or not ENCODERS[encoders[0].tower.encoder].causal:
        raise UnsupportedEncoderError(
            f"The text encoders of this CLIP (found {_found(clip)}) hold no single state of a concept. Connect the "
            "MODEL of the same checkpoint to the input model: then the image model is looked at where its text enters."
        )
    return encoders[0]


def open_edited(clip: Clip, edit: WeightEdit) -> tuple[TextEncoder, ...]:
    """The text towers of a CLIP that an edit changes, in the order of its parts.

    Raises:
        UnsupportedEncoderError: the CLIP has no such tower.
        TowerError: the edit does not fit.
    """
    names = encoders_of(clip)
    missing = [part.encoder for part in edit.parts if part.encoder not in names]
    # A CLIP of one tower takes an edit of another, if that fits: families share their towers.
    if missing and (len(names) != 1 or edit.others or not ENCODERS[names[0]].causal):
        made = " and ".join(f"{ENCODERS[name].module} of {ENCODERS[name].family}" for name in missing)
        raise UnsupportedEncoderError(
            f"The edit changes the text encoder {made}; this CLIP has {_found(clip)}. It was made for another kind of "
            "model: connect the CLIP of such a checkpoint."
        )
    opened = tuple(_opened(clip, names[0] if missing else part.encoder) for part in edit.parts)
    for encoder, part in zip(opened, edit.parts, strict=True):
        require_fit(encoder.tower, part)
    return opened


def _opened(clip: Clip, name: str) -> TextEncoder:
    known = ENCODERS[name]
    encoder = getattr(clip.cond_stage_model, known.module)
    prefix = f"{known.module}.{_TEXT_MODEL}"
    weights = BaseWeights(clip.patcher, prefix)
    layers = encoder.transformer.text_model.encoder.layers
    tower = TextTower.from_weights(
        weights,
        heads=layers[0].self_attn.heads,
        num_layers=layers_read(clip, encoder),
        activation=known.activation,
        encoder=name,
        device=weights.device(),
    )
    own = getattr(clip.tokenizer, known.module)
    tokenizer = PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=encoder.max_length)
    stored = weights.stored_dtype(tower.out_proj_name(0))
    return TextEncoder(tower, tokenizer, prefix, stored, _patch_dtype(clip), weights.basis())


def layers_read(clip: Clip, encoder: Any) -> int:
    """How many layers of a CLIP's text encoder the image model reads, at the clip skip that the CLIP is set to."""
    count = len(encoder.transformer.text_model.encoder.layers)
    stop = clip.layer_idx
    if stop is None and encoder.options_default[0] == "hidden":
        stop = encoder.options_default[1]
    if stop is None or abs(stop) > count:
        return count
    return stop + 1 if stop >= 0 else count + stop + 1


def _patch_dtype(clip: Clip) -> torch.dtype:
    if is_dynamic(clip.patcher):
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
    edited.patcher.add_callback_with_key(
        CallbacksMP.ON_LOAD, f"DiffQuickFix_{key}", lambda patcher, *_, **__: _patch_forgotten(patcher, key)
    )
    return edited


def _patch_forgotten(patcher: Any, key: str) -> None:
    """Patch a weight that ComfyUI loaded without its patches.

    A text encoder that was loaded whole and later, with less memory, in parts keeps its marks of the first time, and
    ``ModelPatcher.load`` passes over the parts that stay on the CPU (0.16.3 to 0.30.0): their patches are lost.
    """
    if key not in patcher.patches or key in patcher.backup or getattr(patcher, "is_dynamic", lambda: False)():
        return
    functions = getattr(comfy.utils.get_attr(patcher.model, key.rpartition(".")[0]), "weight_function", ())
    if not any(isinstance(function, comfy.model_patcher.LowVramPatch) for function in functions):
        patcher.patch_weight_to_device(key)


def stored_report(encoder: TextEncoder, edit: WeightEdit, strength: float) -> EditReport:
    """The edit's report at ``strength``, with what only the whole text encoder tells: what rounding the patched weight
    to the model's own dtype costs, and how far the last hidden states move."""
    update = LowRank(edit.up * strength, edit.down)
    report = report_at(encoder.tower, encoder.tokenizer, edit, strength)
    report = report.with_final(measure_final(encoder.tower, edit.settings.layer, update, encoder.tokenizer))
    report = dataclasses.replace(report, basis=encoder.basis)
    weight, delta = encoder.tower.weight(edit.weight_name), edit.delta(strength)
    return report.with_storage(weight, delta, encoder.storage_dtype, encoder.patch_dtype)


def foreign_note(encoder: TextEncoder, edit: WeightEdit) -> str:
    """A line that says that the edit was computed from another model; nothing where it was not."""
    if edit.base in ("", weight_hash(encoder.tower.weight(edit.weight_name))):
        return ""
    return "This is not the model that the edit was computed from.\n"
