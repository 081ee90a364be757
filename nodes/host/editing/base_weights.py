"""The weights of a CLIP or MODEL that an edit is computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.utils
import torch

from ....quickfix import device_of_most
from ..objects import Patcher

# Quantized weights are tensors of other types.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Bytes that must be free on a GPU for an edit to be computed there.
_ROOM = 2**30


class QuantizedWeightError(ValueError):
    """A weight that holds no plain numbers."""


class BaseWeights(Mapping[str, torch.Tensor]):
    """Parameter names to the weights that an edit is computed from: unpatched, or as the model was merged.

    Patches that replace or scale a weight, or add another model's, make another model of it (:func:`_merges`): they
    count, and so does what was patched before the last of them. LoRAs and edits add to a model; they do not count, so
    that edits stack with them and with each other in any order.

    They are read through ``get_key_patches``: the module's own tensors may carry another node's patches at this moment.
    It gives a weight that is patched from its backup, on the CPU, and every other where it is. With dynamic VRAM the
    weights are the file's own, in the file's type; the model computes with what they are in its own type.

    Args:
        prefix: of the names, left out here.
        dequantize: give the numbers of quantized weights where ComfyUI can tell them; otherwise these are refused.
    """

    def __init__(self, patcher: Patcher, prefix: str, *, dequantize: bool = False) -> None:
        self._prefix = prefix
        self._patches = patcher.get_key_patches(prefix)
        self._merged: dict[str, torch.Tensor] = {}
        self._model = patcher.model if is_dynamic(patcher) else None
        self._dequantize = dequantize

    def __getitem__(self, name: str) -> torch.Tensor:
        if name in self._merged:
            return self._merged[name]
        (stored, convert), *patches = self._patches[self._prefix + name]
        weight, dtype = self._plain(name, stored, convert), self.stored_dtype(name)
        merging = [place for place, patch in enumerate(patches) if _merges(patch)]
        if merging:
            base = weight.to(torch.float32, copy=True)
            weight = comfy.lora.calculate_weight(patches[: merging[-1] + 1], base, self._prefix + name)
        found = weight.to(dtype) if self.is_plain(name) else weight
        if merging:
            self._merged[name] = found
        return found

    def is_plain(self, name: str) -> bool:
        """Whether a weight is stored as plain numbers: fp32, fp16, bf16, or fp8 without a scale."""
        weight = self._patches[self._prefix + name][0][0]
        return type(weight) in _PLAIN and weight.dtype.is_floating_point

    def _plain(self, name: str, stored: Any, convert: Callable[[Any], Any]) -> torch.Tensor:
        """A weight's plain numbers (QuantizedWeightError where there are none)."""
        if self.is_plain(name):
            return convert(stored)
        weight = convert(stored) if self._dequantize else stored
        if self._dequantize and type(weight) in _PLAIN and weight.dtype.is_floating_point:
            return weight.float()
        kind = f"{self._prefix}{name} is a {type(stored).__name__} of {stored.dtype}"
        if self._dequantize:
            raise QuantizedWeightError(
                f"The image model's weights are quantized in a way that ComfyUI cannot undo ({kind}). Choose the "
                'maps "conditioning alone" in Edit Image Model and give its edit to Apply Edit to Conditioning, or '
                "load the model from a safetensors file."
            )
        raise QuantizedWeightError(
            f"The text encoder's weights are quantized ({kind}); a closed-form edit needs plain fp16, bf16 or fp32 "
            "weights. Load the text encoder unquantized (a safetensors file, not GGUF, 4-bit or scaled fp8)."
        )

    def basis(self) -> str:
        """Which of the patches count, in words; empty where there are none."""
        patches = [patch for entries in self._patches.values() for patch in entries[1:]]
        if any(map(_merges, patches)):
            return "the merged model; LoRAs and edits loaded after the merge are not counted, the edit adds to them"
        return "the model without its LoRAs and other edits, to which this one adds" if patches else ""

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._patches)

    def __len__(self) -> int:
        return len(self._patches)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every weight's shape, by name; none is read."""
        return {
            key.removeprefix(self._prefix): tuple(entries[0][0].shape)
            for key, entries in self._patches.items()
            if hasattr(entries[0][0], "shape")
        }

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


def plain_numbers(stored: Any, convert: Callable[[Any], Any]) -> torch.Tensor:
    """The numbers of a weight, quantized or not (QuantizedWeightError where ComfyUI cannot tell them)."""
    weight = convert(stored)
    if type(weight) not in _PLAIN and hasattr(weight, "dequantize"):
        weight = weight.dequantize()
    if type(weight) in _PLAIN and weight.dtype.is_floating_point:
        return weight
    raise QuantizedWeightError(f"Weights are quantized in a way that ComfyUI cannot undo ({type(stored).__name__}).")


def _merges(patch: tuple[Any, ...]) -> bool:
    """Whether a patch makes another model of a weight: it scales it, replaces it, or brings another model's."""
    value, kept = patch[1], patch[2]
    named = isinstance(value, tuple) and len(value) > 0 and value[0] in ("set", "model_as_lora")
    return kept != 1.0 or isinstance(value, list) or named


def is_dynamic(patcher: Patcher) -> bool:
    """Whether ComfyUI brings the weights to the GPU one by one while they are used (dynamic VRAM)."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())
