"""What an image model's own small modules make of a conditioning before its doors read it, computed in fp32."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import comfy.lora
import torch

from ....families.doors import Family
from ....families.family import states_as_they_are
from ..objects import Model
from .base_weights import plain_numbers

_PREFIX = "diffusion_model."
# States (n, tokens, width), and what else a conditioning holds, to what doors read.
MakeStates = Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]


class Front(torch.nn.Module):
    """The modules that stand before the doors of a MODEL, with its LoRAs and patches, on the CPU.

    The model's own weights stay where they are: for the time of a call its modules are given others.
    """

    def __init__(self, model: Model, family: Family) -> None:
        super().__init__()
        self.diffusion_model = model.model.diffusion_model
        self._family = family
        self._weights = {} if family.front_of is states_as_they_are else _weights(model, family)

    @torch.no_grad()
    def make(self, states: torch.Tensor, extras: Mapping[str, Any], reads: str = "text") -> torch.Tensor:
        """What the doors that read ``reads`` are given, in fp32 on the CPU.

        Raises:
            DoorError: states of another width than the modules read.
        """
        states = states.detach().float().cpu()
        if not self._weights:
            return states
        given = {name: value.cpu() if isinstance(value, torch.Tensor) else value for name, value in extras.items()}
        with _unpatched(self.diffusion_model, self._family.front_modules):
            made = torch.func.functional_call(self, self._weights, (states, given, reads))
        return made.float().cpu()

    def forward(self, states: torch.Tensor, extras: Mapping[str, Any], reads: str) -> torch.Tensor:
        return self._family.front(self.diffusion_model, states, extras, reads)

    def weight(self, name: str) -> torch.Tensor:
        """A weight of the modules, by its name below the image model."""
        return self._weights[_PREFIX + name]


def _weights(model: Model, family: Family) -> dict[str, torch.Tensor]:
    """Parameters, patched, and buffers of the modules before the doors."""
    module = model.model.diffusion_model
    found: dict[str, torch.Tensor] = {}
    for part in family.front_modules:
        inner = module.get_submodule(part)
        own = dict(inner.named_parameters(prefix=_PREFIX + part))
        entries = model.get_key_patches(_PREFIX + part)
        for name in own:
            (stored, convert), *patches = entries[name]
            weight = plain_numbers(stored, convert).detach().float().cpu()
            found[name] = comfy.lora.calculate_weight(patches, weight.clone(), name) if patches else weight
        found |= {name: buffer.cpu() for name, buffer in inner.named_buffers(prefix=_PREFIX + part)}
    return found


@contextlib.contextmanager
def _unpatched(module: torch.nn.Module, parts: tuple[str, ...]) -> Iterator[None]:
    """Modules without the functions by which ComfyUI patches weights while they are used."""
    kept = []
    for part in parts:
        for inner in module.get_submodule(part).modules():
            for name in ("weight_function", "bias_function"):
                if getattr(inner, name, None):
                    kept.append((inner, name, getattr(inner, name)))
                    setattr(inner, name, [])
    try:
        yield
    finally:
        for inner, name, functions in kept:
            setattr(inner, name, functions)
