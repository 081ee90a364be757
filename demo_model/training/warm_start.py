"""Warm starts: a new miniature begins with the shipped weights of an older one, wherever names and shapes agree."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

import torch

from ..architecture import ARCHITECTURES
from ..weights import CLIP_TABLE, load_part
from .training_set import Recipe

log = logging.getLogger("diff_quickfix.demo_model")


def adopt(module: torch.nn.Module, state: Mapping[str, torch.Tensor]) -> int:
    """Copy every tensor whose name and number of elements agree into a module.

    A row of an embedding table that is zero says nothing (a word that was never read) and is left as it is. 1x1
    convolutions and linear layers hold the same numbers.

    Returns:
        How many tensors were copied.
    """
    copied = 0
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            found = state.get(name)
            if found is None or _squeezed(found) != _squeezed(parameter):
                continue
            found = found.reshape(parameter.shape)
            if f".{name}".endswith(CLIP_TABLE.whole):
                found = torch.where(found.any(1, keepdim=True), found, parameter)
            parameter.copy_(found)
            copied += 1
    log.info("adopted %d of %d tensors", copied, len(list(module.parameters())))
    return copied


def _squeezed(tensor: torch.Tensor) -> tuple[int, ...]:
    return tuple(length for length in tensor.shape if length != 1)


def adopt_part(module: torch.nn.Module, recipe: Recipe, part: str, renamed: Mapping[str, str] | None = None) -> None:
    """Let a part begin with that of the recipe's ``warm``, if any.

    Args:
        renamed: patterns of the new model's names, at their beginning, to what stands there in the old one's.
    """
    if not recipe.warm:
        return
    state = load_part(part, ARCHITECTURES[recipe.warm].folder)
    names = {name: name for name, _ in module.named_parameters()}
    for pattern, replacement in (renamed or {}).items():
        names = {name: re.sub(f"^{pattern}", replacement, old) for name, old in names.items()}
    adopt(module, {name: state[old] for name, old in names.items() if old in state})
