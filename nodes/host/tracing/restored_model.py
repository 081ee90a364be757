"""The MODEL that restores: a stock sampler paints the restored run with it, while the clean run rides along."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.patcher_extension
import comfy.utils
import torch

from ....tracing.runs.cases import Restoration
from ....tracing.runs.interventions import InterventionError, Patch
from ..objects import Entry, Executor, Guider, Model, Sampler
from .corrupted import CorruptedPrompt
from .patched_model import WRAPPER, positive_of, taking_rows, with_patches
from .sampling import arguments_of, sample_on, samplers, sampling_alike
from .steps import require_known_steps

# Half precision on the way moves a state by a thousandth of its size; other words, or other noise, by far more.
_SAME = 2e-3
# An entry [states, options] of the corrupted prompt, and of the clean one.
Twin = tuple[Sequence[Any], Sequence[Any]]


def restore_in_unet(
    model: Model,
    corrupted: CorruptedPrompt,
    sites: Sequence[str],
    *,
    steps: range | None = None,
    branch: str = "cond",
    schedule: torch.Tensor | None = None,
) -> Model:
    """A MODEL that any stock sampler paints the restored run with, given the corrupted CONDITIONING as positive.

    The clean run rides along as the second half of the batch and is taken off the result. Among several positive
    conditionings the corrupted ones are found by their text states, and the others are the same in both runs.

    Args:
        steps: those at which the sites are restored, counted in the whole schedule.
        schedule: the whole schedule's noise levels, where a sampler runs a part of it.

    Raises:
        InterventionError: see :func:`with_patches`; while sampling, before the first step: none of the positive
            conditionings is the corrupted one, the sampler draws noise on the way or adapts its steps to the pictures,
            or it cannot be known at which step of a schedule it begins.
    """
    twins = tuple(zip(corrupted.conditioning(Restoration(0)), corrupted.conditioning(Restoration(None)), strict=True))

    def patches_of(size: int) -> list[Patch]:
        half = size // 2
        return [Patch(site, row, half + row, None, steps) for site in sites for row in range(half)]

    def outer(executor: Executor, *args: Any, **kwargs: Any) -> torch.Tensor:
        given = arguments_of(args, kwargs)
        sampler, sigmas, noise = given["sampler"], given["sigmas"], given["noise"]
        _refuse_uneven(sampler)
        guider, rows = executor.class_obj, len(noise)
        require_known_steps(steps, sigmas, schedule, guider.model_patcher.get_model_object("model_sampling"))
        guider.conds = _with_clean(guider, twins, rows)
        given["sampler"] = sampling_alike(sampler, noise.shape, given["seed"])
        return sample_on(executor, _doubled_batch(given, rows))[:rows]

    restored = with_patches(
        taking_rows(model), patches_of, branch=branch, schedule=lambda sigmas: sigmas if schedule is None else schedule
    )
    restored.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER, outer)
    return restored


def _doubled_batch(given: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The arguments of a sampling for twice as many rows; the callback is shown the first half."""
    callback, mask = given["callback"], given["denoise_mask"]

    def seen(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
        callback(step, x0[:rows], x[:rows], total)

    doubled: dict[str, Any] = {name: torch.cat([given[name]] * 2) for name in ("noise", "latent_image")}
    if mask is not None and len(mask) == rows:
        doubled["denoise_mask"] = torch.cat([mask, mask])
    if given.get("latent_shapes"):
        doubled["latent_shapes"] = [(2 * rows, *shape[1:]) for shape in given["latent_shapes"]]
    return {**given, **doubled, "callback": callback and seen}


def _refuse_uneven(sampler: Sampler) -> None:
    """Refuse samplers that would not treat the clean and the restored rows alike."""
    function = getattr(sampler, "sampler_function", None)
    if function is None:
        return
    name = getattr(function, "__name__", str(function)).removesuffix("_function")
    options = getattr(sampler, "extra_options", {})
    drawing = "noise_sampler" in inspect.signature(function).parameters or any(
        options.get(amount, 0) for amount in ("s_churn", "eta")
    )
    if drawing or name == "dpm_adaptive":
        why = (
            "draws new noise at every step, different for the clean and for the restored run"
            if drawing
            else "chooses its steps by all pictures of a batch, the clean run's among them"
        )
        raise InterventionError(f"The sampler {name} {why}. Choose one of {', '.join(samplers())}.")


def _with_clean(guider: Guider, twins: Sequence[Twin], rows: int) -> dict[str, list[Entry]]:
    """A guider's conditionings for twice as many rows, of which the second half has the clean prompt.

    Args:
        twins: entries of the corrupted and of the clean prompt, with text states (1, tokens, width).
    """
    positive = positive_of(guider)
    clean = [_clean_twin(entry, twins) for entry in positive]
    if not any(twin is not None for twin in clean):
        raise InterventionError(_not_corrupted(positive, twins))
    doubled = {name: [_doubled(entry, rows) for entry in entries] for name, entries in guider.conds.items()}
    for entry, twin in zip(doubled["positive"], clean, strict=True):
        if twin is not None:
            entry |= {name: _beside(entry[name], value, rows) for name, value in _tensors_of(twin, entry).items()}
    return doubled


def _tensors_of(twin: Sequence[Any], entry: Entry) -> dict[str, torch.Tensor]:
    """The clean prompt's states and, where the sampler was given them too, its pooled vector and the like."""
    states, options = twin
    found = {
        name: value
        for name, value in options.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1 and len(value) == 1
    }
    return {
        name: value
        for name, value in {**found, "cross_attn": states}.items()
        if isinstance(entry.get(name), torch.Tensor) and entry[name].shape[1:] == value.shape[1:]
    }


def _beside(own: torch.Tensor, clean: torch.Tensor, rows: int) -> torch.Tensor:
    """Rows of the sampler's, and as many of the clean prompt's behind them."""
    first = comfy.utils.repeat_to_batch_size(own, rows)[:rows]
    return torch.cat([first, clean.to(first).expand(rows, *clean.shape[1:])])


def _doubled(entry: Entry, rows: int) -> Entry:
    states = entry.get("cross_attn")
    if states is None:
        return dict(entry)
    # ComfyUI repeats what is shorter than the batch: each half is what the batch was.
    return {**entry, "cross_attn": torch.cat([comfy.utils.repeat_to_batch_size(states, rows)] * 2)}


def _clean_twin(entry: Entry, twins: Sequence[Twin]) -> Sequence[Any] | None:
    """The clean entry to a corrupted one; behind another restoring MODEL some rows are clean already."""
    states = entry.get("cross_attn")
    for (corrupted, _), (clean, options) in twins:
        if states is None or states.shape[1:] != clean.shape[1:]:
            continue
        others = torch.stack([_distance(states, corrupted), _distance(states, clean)])
        if others[0, 0] < _SAME and bool((others.amin(0) < _SAME).all()):
            return clean, options
    return None


def _distance(states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How far each row (n, tokens, width) is from (1, tokens, width), as a share of its size; (n,)."""
    wanted = wanted.to(states.device).float()
    return (states.float() - wanted).flatten(1).norm(dim=1) / wanted.norm().clamp_min(1e-12)


def _not_corrupted(positive: Sequence[Entry], twins: Sequence[Twin]) -> str:
    found = ", ".join(
        "none" if entry.get("cross_attn") is None else str(tuple(entry["cross_attn"].shape)) for entry in positive
    )
    return (
        f"None of the sampler's positive conditionings (text states of shape {found}) is the corrupted one of the "
        f"CORRUPTION ({tuple(twins[0][0][0].shape)}). Connect the output corrupted of the same Corrupt Prompt node to "
        "the sampler's positive; its text states must not be changed on the way (areas, masks and ControlNets may be "
        "set)."
    )
