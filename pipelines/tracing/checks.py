"""What would make a trace of a pipeline wrong, refused before it starts."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..opened import PipelineError
from .kinds import PipelineKind

DETERMINISTIC = (
    "DDIMScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "UniPCMultistepScheduler",
    "IPNDMScheduler",
    "EDMEulerScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
"""Schedulers whose result depends on the initial noise alone."""


def require_traceable(pipe: Any, kind: PipelineKind) -> None:
    """Refuse a pipeline whose clean and restored runs could not be compared, or whose modules would not run.

    Raises:
        PipelineError: what was found, and what to do.
    """
    require_deterministic(pipe.scheduler)
    names = (kind.part, *(f"text_encoder{end}" for end, _ in kind.encoders))
    for name in names:
        module = getattr(pipe, name, None)
        if module is not None:
            _require_plain(module, name)


def require_deterministic(scheduler: Any) -> None:
    """Refuse a scheduler that draws noise at its steps.

    Raises:
        PipelineError: it does, or it is not known not to.
    """
    name, config = type(scheduler).__name__, dict(scheduler.config)
    known = any(one.__name__ in DETERMINISTIC for one in type(scheduler).__mro__)
    algorithm = str(config.get("algorithm_type") or "")
    if algorithm.startswith("sde"):
        why = f"with algorithm_type {algorithm} draws noise at every step"
    elif config.get("stochastic_sampling"):
        why = "with stochastic_sampling draws noise at every step"
    elif not known:
        why = "draws noise at every step, or is not known not to"
    else:
        return
    raise PipelineError(
        f"The scheduler {name} {why}, so clean and restored runs could not be compared. Set pipe.scheduler to one of "
        f"{', '.join(DETERMINISTIC)}, such as EulerDiscreteScheduler.from_config(pipe.scheduler.config)."
    )


def _require_plain(module: nn.Module, name: str) -> None:
    if hasattr(module, "_orig_mod") or any(one._compiled_call_impl is not None for one in module.modules()):
        raise PipelineError(f"{name} is compiled; the tracer's hooks would not run. Trace it before it is compiled.")
    if getattr(module, "is_cache_enabled", False):
        raise PipelineError(f"{name} has a cache enabled, which skips blocks. Disable it: pipe.{name}.disable_cache().")
    projects = getattr(getattr(module, "config", None), "encoder_hid_dim_type", None) == "ip_image_proj"
    if projects or (name == "transformer" and getattr(module, "encoder_hid_proj", None) is not None):
        raise PipelineError(f"{name} has an IP-Adapter loaded, which needs a picture. Call pipe.unload_ip_adapter().")
    away = next((key for key, weight in module.named_parameters() if weight.is_meta), None)
    if away is not None:
        raise PipelineError(
            f"{name}.{away} is not in memory (sequential offloading), so that what was traced could not be told. Use "
            "pipe.enable_model_cpu_offload() in its place."
        )
    dropout = next((key for key, one in module.named_modules() if isinstance(one, nn.Dropout) and one.p > 0), None)
    if dropout is not None and module.training:
        raise PipelineError(f"{name} is in training mode, in which {dropout} draws at random. Call pipe.{name}.eval().")
