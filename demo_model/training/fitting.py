"""The training loop of all stages: seeded by its caller, checkpointed, resumable, with averaged weights."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

log = logging.getLogger("diff_quickfix.demo_model")


def fit(
    name: str,
    modules: dict[str, torch.nn.Module],
    loss_of_step: Callable[[int], torch.Tensor],
    *,
    steps: int,
    rate: float,
    out: Path,
    after_step: Callable[[int], None] = lambda step: None,
    weight_decay: float = 0.01,
    save_every: int = 200,
) -> None:
    """AdamW with warm-up and cosine decay; checkpoints ``<name>.safetensors`` and resumes from it.

    A checkpoint without the optimizer's moments beside it gives the weights that step 0 begins with.
    """
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, betas=(0.9, 0.98))
    warm_up = max(1, min(200, steps // 10))
    checkpoint, moments = out / f"{name}.safetensors", out / f"{name}.optimizer.safetensors"
    first = 0
    if checkpoint.exists():
        _load(checkpoint, modules)
        if moments.exists():
            first = _load_moments(moments, optimizer, parameters)
            log.info("%s: resumed at step %d", name, first)

    def save(step: int) -> None:
        state = {f"{prefix}.{k}": v.contiguous() for prefix, m in modules.items() for k, v in m.state_dict().items()}
        kept = {
            f"{index}.{key}": torch.as_tensor(value).contiguous()
            for index, parameter in enumerate(parameters)
            for key, value in optimizer.state[parameter].items()
        }
        for path, tensors in ((checkpoint, state), (moments, {**kept, "step": torch.tensor(step)})):
            save_file(tensors, f"{path}.part")
            os.replace(f"{path}.part", path)

    started, shown = time.monotonic(), []
    for step in range(first, steps):
        progress = max(0.0, (step - warm_up) / max(1, steps - warm_up))
        for group in optimizer.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            group["lr"] = rate * min(1.0, (step + 1) / warm_up) * (0.02 + 0.98 * cosine)
        loss = loss_of_step(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        after_step(step)
        shown.append(float(loss.detach()))
        if (step + 1) % 25 == 0:
            pace = (time.monotonic() - started) / (step + 1 - first)
            log.info("%s %d/%d loss %.4f, %.2f s a step", name, step + 1, steps, float(np.mean(shown)), pace)
            shown = []
        if (step + 1) % save_every == 0 or step + 1 == steps:
            save(step + 1)


def following(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> Callable[[int], None]:
    """What keeps a moving average of a module's weights after each step; ``decay`` is reached by and by."""

    def follow(step: int) -> None:
        with torch.no_grad():
            share = 1 - min(decay, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), share)

    return follow


def _load(checkpoint: Path, modules: dict[str, torch.nn.Module]) -> None:
    """Modules that a checkpoint holds; one that it lacks stays as it is."""
    state = load_file(checkpoint)
    for prefix, module in modules.items():
        own = {key[len(prefix) + 1 :]: value for key, value in state.items() if key.startswith(prefix + ".")}
        if own:
            module.load_state_dict(own)


def _load_moments(path: Path, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter]) -> int:
    """The optimizer's moments; how many steps were done."""
    saved = load_file(path)
    for index, parameter in enumerate(parameters):
        optimizer.state[parameter] = {key: saved[f"{index}.{key}"] for key in ("step", "exp_avg", "exp_avg_sq")}
    return int(saved["step"])
