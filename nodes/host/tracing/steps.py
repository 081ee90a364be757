"""Sampling steps, counted in a whole schedule of noise levels (sigmas), descending or ascending."""

from __future__ import annotations

from typing import Any

import torch

from ....tracing.runs.interventions import InterventionError

# No sampler node runs more.
MOST_STEPS = 10000
_CLOSE = 1e-4


def step_of(schedule: torch.Tensor, sigma: torch.Tensor | float) -> int:
    """Which step of a schedule runs at a noise level: the last that begins there or before it, on the way.

    A sampler that evaluates the model between two levels is at the step that lies between them.

    Args:
        schedule: (steps + 1,) levels, falling or rising.
    """
    levels, now = schedule.flatten().double().cpu(), float(sigma)
    passed = levels <= now * (1 + 1e-5) if _rises(levels) else levels >= now * (1 - 1e-5)
    return min(max(0, int(passed.sum()) - 1), max(0, len(levels) - 2))


def require_known_steps(
    steps: range | None, sigmas: torch.Tensor, given: torch.Tensor | None, model_sampling: Any
) -> None:
    """Refuse a run whose steps cannot be counted: in the schedule that is given, else in the sampler's own levels.

    Args:
        steps: the steps that are asked for; None, or all there can be: any levels will do.
        sigmas: the levels that the sampler runs.
        given: the whole schedule, where the user connected it.
        model_sampling: the model's; it knows its largest level.

    Raises:
        InterventionError: the sampler runs a part of a schedule, and it cannot be known which; or it runs levels that
            are not in the given one.
    """
    if given is not None:
        _require_part(sigmas, given)
        return
    every = steps is None or (steps.start <= 0 and steps.stop >= MOST_STEPS)
    if every or len(sigmas) < 2 or _begins(sigmas, model_sampling):
        return
    assert steps is not None
    raise InterventionError(
        f"Steps {steps.start} to {steps.stop} are to be restored, but the sampler begins at the noise level "
        f"{float(sigmas[0]):.4g}, in the midst of a schedule, and does not say at which step. Connect the SIGMAS of "
        "the whole schedule (of a Basic Scheduler with the sampler's scheduler and steps) to the input schedule of "
        "Restore Layer State (Image Model), or restore at all steps."
    )


def _rises(levels: torch.Tensor) -> bool:
    return len(levels) > 1 and bool(levels[0] < levels[-1])


def _require_part(sigmas: torch.Tensor, whole: torch.Tensor) -> None:
    run, levels = sigmas.flatten().double().cpu(), whole.flatten().double().cpu()
    if len(levels) < 2 or not _monotone(levels):
        raise InterventionError(
            f"The schedule given to Restore Layer State (Image Model) has {len(levels)} noise levels that do not fall "
            "or rise all the way; steps cannot be counted in it. Connect the SIGMAS of a scheduler."
        )
    near = ((run[:, None] - levels[None]).abs() <= _CLOSE * levels.max()).any(1)
    if bool(near.all()) and (len(run) < 2 or _rises(run) == _rises(levels)):
        return
    raise InterventionError(
        f"The sampler runs from the noise level {float(run[0]):.4g} to {float(run[-1]):.4g} in {len(run) - 1} steps, "
        f"which are no part of the schedule given to Restore Layer State (Image Model), {float(levels[0]):.4g} to "
        f"{float(levels[-1]):.4g} in {len(levels) - 1} steps. Connect the whole schedule that the sampler runs a part "
        "of."
    )


def _monotone(levels: torch.Tensor) -> bool:
    differences = levels.diff()
    return bool((differences > 0).all() or (differences < 0).all())


def _begins(sigmas: torch.Tensor, model_sampling: Any) -> bool:
    """Whether a sampler's levels begin where a schedule does."""
    levels = sigmas.flatten().double().cpu()
    if not _monotone(levels):
        return False
    smallest, largest = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    if _rises(levels):
        # A falling schedule ends at 0; upside down, it begins at almost 0.
        return float(levels[0]) < smallest * 0.9
    return float(levels[0]) >= largest * (1 - 1e-3) or _begins_ddim_uniform(levels, model_sampling)


def _begins_ddim_uniform(levels: torch.Tensor, model_sampling: Any) -> bool:
    """Whether levels are the first ones of the scheduler "ddim_uniform", the stock one that begins below the largest.

    It takes every n-th of the model's own levels, from the second on.
    """
    own = getattr(model_sampling, "sigmas", None)
    if own is None or len(levels) < 3:
        return False
    near = (own.double().cpu()[None] - levels[:2, None]).abs() <= 1e-6 * levels[:2, None]
    if not bool(near.any(1).all()):
        return False
    first, second = near.int().argmax(1).tolist()
    gap = first - second
    return gap > 0 and (first - 1) % gap == 0 and first + gap >= len(own)
