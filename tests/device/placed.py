"""Weights on two devices, as ComfyUI leaves them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping

import torch
from pretended import DEVICE

# Which weights lie on the device, by their names in CLIP's text model; the others lie on the CPU.
Placing = Callable[[str], bool]


def scattered(seed: int) -> Placing:
    """Half of the weights, drawn by a seed."""
    return lambda name: random.Random(f"{seed} {name}").random() < 0.5


# ComfyUI backs up what a LoRA or an edit patches on the CPU; with little memory whole modules stay there.
MIXTURES: dict[str, Placing] = {
    "all on the device": lambda name: True,
    "a LoRA on attention and MLPs": lambda name: not any(part in name for part in ("_proj.weight", "fc1.w", "fc2.w")),
    "embeddings on the CPU": lambda name: "embeddings" not in name,
    "only embeddings on the device": lambda name: "embeddings" in name,
    "layers split": lambda name: "layers.1." not in name,
    "the later layers on the device": lambda name: "layers.1." in name,
    "an edit behind an edit": lambda name: name != "encoder.layers.0.self_attn.out_proj.weight",
    "only the edited weight on the device": lambda name: name == "encoder.layers.0.self_attn.out_proj.weight",
    "norms on the CPU": lambda name: "norm" not in name,
    "biases on the CPU": lambda name: not name.endswith("bias"),
    **{f"scattered {seed}": scattered(seed) for seed in range(3)},
}


def place(weights: Mapping[str, torch.Tensor], on_device: Placing) -> dict[str, torch.Tensor]:
    """Weights by name, each where it belongs."""
    return {name: weight.to(DEVICE if on_device(name) else "cpu") for name, weight in weights.items()}


def on_device(names: Iterable[str]) -> Placing:
    """The weights of some names."""
    return frozenset(names).__contains__
