"""What an image model's own modules make of the text states before its doors read them, by its parameters' names.

The modules are small; each is an object with what :meth:`Family.front` calls, made of weights that are read when they
are used, in ComfyUI's names or diffusers'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn import functional as F

from ....families.doors import Family
from ..layers import NamedLayers
from ..named_weights import KeptWeights, WeightsBelow
from ..row_states import MakeStates
from .adapter import Adapter
from .fusion import Fusion, tree_of

Weights = Mapping[str, torch.Tensor]
_PROJECTIONS = ("y_embedder.y_proj.fc{}", "caption_projection.linear_{}")
_ADAPTER = "llm_adapter."


class _Network(NamedLayers):
    """PixArt's network of two linear maps."""

    def __init__(self, weights: Weights, device: torch.device) -> None:
        self.weights, self.eps, self.device = KeptWeights(weights), 0.0, device
        self._name = next(name for name in _PROJECTIONS if f"{name.format(1)}.weight" in weights)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(self._linear(states, self._name.format(1)), approximate="tanh")
        return self._linear(hidden, self._name.format(2))


def _norm(weights: Weights, device: torch.device, name: str, eps: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda states: F.rms_norm(states, states.shape[-1:], weights[name].to(device, torch.float32), eps)


def _krea2(weights: Weights, device: torch.device) -> Any:
    fusion = Fusion(weights, device)
    network = _Called(fusion.fused, projector=SimpleNamespace(weight=torch.empty(1, fusion.layers)))
    return SimpleNamespace(txtfusion=network, txtmlp=[fusion.normed])


class _Called(SimpleNamespace):
    """A function with attributes."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor], **attributes: Any) -> None:
        super().__init__(**attributes)
        self._function = function

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        return self._function(states)


_FRONTS: dict[str, Callable[[Weights, torch.device], Any]] = {
    "z-image": lambda weights, device: SimpleNamespace(
        cap_embedder=[_norm(weights, device, "cap_embedder.0.weight", 1e-5)]
    ),
    "qwen-image": lambda weights, device: SimpleNamespace(txt_norm=_norm(weights, device, "txt_norm.weight", 1e-6)),
    "anima": lambda weights, device: SimpleNamespace(
        preprocess_text_embeds=Adapter(WeightsBelow(weights, _ADAPTER), device)
    ),
    "krea2": _krea2,
    "pixart": lambda weights, device: SimpleNamespace(y_embedder=SimpleNamespace(y_proj=_Network(weights, device))),
}


def make_front(family: Family, weights: Weights, device: torch.device | None = None) -> MakeStates:
    """What makes the states that a family's doors read, in fp32.

    Args:
        weights: the image model's parameters, of any float type and on any device.
        device: where it computes; the CPU by default.
    """
    where = device or torch.device("cpu")
    module = _FRONTS[family.name](weights, where) if family.name in _FRONTS else None

    def make(states: torch.Tensor, extras: Mapping[str, Any]) -> torch.Tensor:
        return states if module is None else family.front(module, states.to(where, torch.float32), extras)

    return make


def front_widths(family: Family, shapes: Mapping[str, Sequence[int]], width: int) -> tuple[int, int, int]:
    """How wide the states of the text encoder must be, how many of its layers are read, and how wide the states are
    that the doors read, of an image model whose parameters have some shapes.

    Args:
        width: of the text encoder; what the first is where the model does not say another.
    """
    if family.name == "anima":
        return width, 1, shapes[f"{_ADAPTER}norm.weight"][0]
    if family.name == "pixart":
        name = next(name for name in _PROJECTIONS if f"{name.format(1)}.weight" in shapes)
        return shapes[f"{name.format(1)}.weight"][1], 1, shapes[f"{name.format(2)}.weight"][0]
    if family.name == "krea2":
        tree = tree_of(shapes)
        norm = shapes[tree.last][0]
        return norm, shapes[tree.projector][1], norm
    return width, 1, width
