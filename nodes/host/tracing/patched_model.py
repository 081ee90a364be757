"""A MODEL whose image model carries out patches while ComfyUI samples it, under any guider."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import comfy.patcher_extension
import torch

from ....families.heads import with_heads
from ....families.sites import Site
from ....families.transformer import image_sites
from ....tracing.runs.interventions import InterventionError, Patch, patching
from ..objects import Entry, Executor, Guider, Model
from .steps import step_of

WRAPPER = "DiffQuickFix_trace"
# Keys of transformer_options, by which what a guider knows reaches the image model.
_PROMPT, _PARTS = "DiffQuickFix_prompt", "DiffQuickFix_parts"
_ADAPTER = "preprocess_text_embeds"
_UNKNOWN = (
    "Another node runs the image model outside the guider's prediction, where it is not known which conditioning is "
    "the prompt's. Take that node away, or set branch to both."
)


def positive_of(guider: Guider) -> list[Entry]:
    """The conditionings of a guider's prompt.

    Raises:
        InterventionError: the guider has none that it calls positive.
    """
    found = guider.conds.get("positive")
    if found:
        return found
    raise InterventionError(
        f"The guider {type(guider).__name__} has the conditionings {', '.join(guider.conds) or 'none'}; expected one "
        "named positive, to restore the prompt's half of the guidance. Use a stock guider (CFGGuider, BasicGuider, "
        "DualCFGGuider, PerpNegGuider) or a KSampler."
    )


def taking_rows(model: Model) -> Model:
    """A clone of a MODEL that takes a CONDITIONING of several rows where its adapter takes one: Anima makes its text
    states of one prompt's tokens of two encoders, of which all rows share the second's."""
    clone = model.clone()
    if hasattr(model.model.diffusion_model, _ADAPTER):
        path = f"diffusion_model.{_ADAPTER}"
        adapter = model.get_model_object(path)

        def of_rows(states: torch.Tensor, ids: torch.Tensor | None, **weights: Any) -> torch.Tensor:
            return torch.cat([adapter(row[None], ids, **weights) for row in states])

        clone.add_object_patch(path, of_rows)
    return clone


def with_patches(
    model: Model,
    patches_of: Callable[[int], Sequence[Patch]],
    *,
    branch: str = "cond",
    schedule: Callable[[torch.Tensor], torch.Tensor] = lambda sigmas: sigmas,
) -> Model:
    """A clone of a MODEL whose image model carries out patches; hooks live only as long as one forward pass.

    Args:
        patches_of: the patches, given how many rows a conditioning has in the pass that runs.
        branch: "cond" patches the passes of the guider's positive conditionings, whatever their number and order,
            "both" every pass.
        schedule: the sampler's noise levels to those of the schedule in which steps are counted.

    Raises:
        InterventionError: the model is compiled or spread over GPUs; while sampling: a site did not run, or the guider
            has no positive conditioning.
    """
    if "multigpu_clones" in model.model_options or hasattr(model.model.diffusion_model, "_orig_mod"):
        raise InterventionError(
            "The MODEL is compiled or spread over GPUs; the tracer's hooks would not run. Trace the plain model."
        )

    @functools.cache
    def sites_of(image_model: torch.nn.Module) -> dict[str, Site]:
        return {site.name: site for site in with_heads(image_sites(image_model), "attn.h*")}

    def model_pass(executor: Executor, *args: Any, **kwargs: Any) -> Any:
        options = _options_of(args, kwargs)
        parts = options["cond_or_uncond"]
        chosen = [place for place, part in enumerate(parts) if branch == "both" or part in _prompts_parts(options)]
        if not chosen:
            return executor(*args, **kwargs)
        size = len(args[0]) // len(parts)
        step = step_of(schedule(options["sample_sigmas"]), options["sigmas"].flatten()[0])
        with patching(
            sites_of(executor.class_obj),
            patches_of(size),
            index=lambda row: [place * size + row for place in chosen],
            step=lambda: step,
        ):
            return executor(*args, **kwargs)

    clone = model.clone()
    kinds = comfy.patcher_extension.WrappersMP
    if branch != "both":
        clone.add_wrapper_with_key(kinds.PREDICT_NOISE, WRAPPER, _tell_the_prompt)
        clone.add_wrapper_with_key(kinds.CALC_COND_BATCH, WRAPPER, _tell_its_parts)
    clone.add_wrapper_with_key(kinds.DIFFUSION_MODEL, WRAPPER, model_pass)
    return clone


def _telling(model_options: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    options = model_options.get("transformer_options", {})
    return {**model_options, "transformer_options": {**options, key: value}}


def _tell_the_prompt(
    executor: Executor, x: Any, timestep: Any, model_options: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    # A guider keeps the order of its conditionings to itself, but each has an identity of its own. Those that ComfyUI
    # adds to the prompt's, or takes from them for the others, stand behind the first.
    first = positive_of(executor.class_obj)[0]["uuid"]
    return executor(x, timestep, _telling(model_options, _PROMPT, first), *args, **kwargs)


def _tell_its_parts(
    executor: Executor, model: Any, conds: Any, x: Any, timestep: Any, model_options: dict[str, Any], *args: Any
) -> Any:
    first = model_options.get("transformer_options", {}).get(_PROMPT)
    if first is None:
        raise InterventionError(_UNKNOWN)
    parts = frozenset(number for number, cond in enumerate(conds) if cond and cond[0].get("uuid") == first)
    return executor(model, conds, x, timestep, _telling(model_options, _PARTS, parts), *args)


def _prompts_parts(options: dict[str, Any]) -> frozenset[int]:
    if _PARTS not in options:
        raise InterventionError(_UNKNOWN)
    return options[_PARTS]


def _options_of(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    for value in (kwargs.get("transformer_options"), *args):
        if isinstance(value, dict) and "cond_or_uncond" in value:
            return value
    raise InterventionError("ComfyUI ran the image model without telling which rows are the prompt's (cond_or_uncond).")
