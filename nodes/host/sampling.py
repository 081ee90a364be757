"""ComfyUI's MODEL objects, as the tracer sees them: a painter of many rows, and the MODEL that restores."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import torch

from ...families.sites import Site
from ...families.unet import unet_sites
from ...tracing.runs.cases import Restoration
from ...tracing.runs.interventions import InterventionError, Patch, patching
from .corrupted import CorruptedPrompt

WRAPPER = "DiffQuickFix_trace"
# Samplers whose result depends on the initial noise alone. Fresh noise at each step would differ between rows.
DETERMINISTIC = (
    "euler",
    "heun",
    "dpm_2",
    "lms",
    "dpmpp_2m",
    "ipndm",
    "deis",
    "res_multistep",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
)
POSITIVE = 0


def samplers() -> list[str]:
    """The running ComfyUI's deterministic samplers."""
    return [name for name in DETERMINISTIC if name in comfy.samplers.KSampler.SAMPLERS]


@dataclass(frozen=True)
class SamplerSettings:
    """The settings of a KSampler."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str


def make_painter(
    model: comfy.model_patcher.ModelPatcher,
    negative: list[Any],
    latent: dict[str, Any],
    settings: SamplerSettings,
    *,
    branch: str = "cond",
) -> Callable[[torch.Tensor, int, Sequence[Patch]], torch.Tensor]:
    """A painter (see ``tracing.lockstep``) that runs ComfyUI's own sampler on a MODEL.

    Args:
        latent: one latent; its size is what is painted.
        branch: "cond" or "both" halves of the guidance.

    Raises:
        ValueError: the latent holds more than one picture, or the sampler draws noise at every step.
    """
    shape = latent["samples"].shape
    if shape[0] != 1:
        raise ValueError(
            f"Tracing paints from one initial latent; got a batch of {shape[0]}. Set batch_size to 1 and trace several "
            "seeds instead."
        )
    if settings.sampler not in samplers():
        raise ValueError(
            f"The sampler {settings.sampler!r} draws new noise at every step, so clean and restored runs could not be "
            f"compared. Choose one of {', '.join(samplers())}."
        )
    empty = comfy.sample.fix_empty_latent_channels(model, latent["samples"])

    def paint(states: torch.Tensor, seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        rows = len(states)
        noise = comfy.sample.prepare_noise(empty, seed).repeat(rows, 1, 1, 1)
        patched = with_patches(model, _fixed(patches, rows), branch=branch) if patches else model
        return comfy.sample.sample(
            patched,
            noise,
            settings.steps,
            settings.cfg,
            settings.sampler,
            settings.scheduler,
            [[states, {}]],
            negative,
            empty.repeat(rows, 1, 1, 1),
            disable_pbar=True,
            seed=seed,
            callback=lambda *_: comfy.model_management.throw_exception_if_processing_interrupted(),
        )

    return paint


def _options_of(args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    for value in (kwargs.get("transformer_options"), *args):
        if isinstance(value, dict) and "cond_or_uncond" in value:
            return value
    raise InterventionError("ComfyUI ran the UNet without telling which rows are the prompt's (cond_or_uncond).")


def step_of(options: dict[str, Any]) -> int:
    """Which sampling step is running: the last whose sigma is not below the one that the UNet is given."""
    sigmas, now = options["sample_sigmas"], options["sigmas"].flatten()[0]
    return max(0, int((sigmas.to(now) >= now * (1 - 1e-5)).sum()) - 1)


def _fixed(patches: Sequence[Patch], rows: int) -> Callable[[int], Sequence[Patch]]:
    def patches_of(size: int) -> Sequence[Patch]:
        if size != rows:
            raise InterventionError(
                f"The UNet was given {size} rows a conditioning; expected {rows}. Another node changes the batch."
            )
        return patches

    return patches_of


def with_patches(
    model: comfy.model_patcher.ModelPatcher,
    patches_of: Callable[[int], Sequence[Patch]],
    *,
    branch: str = "cond",
) -> comfy.model_patcher.ModelPatcher:
    """A clone of a MODEL whose UNet carries out patches; hooks live only as long as one forward pass.

    Args:
        patches_of: the patches, given how many rows a conditioning has in the pass that runs.

    Raises:
        InterventionError: the model is compiled or spread over GPUs; while sampling: a site did not run.
    """
    if "multigpu_clones" in model.model_options or hasattr(model.model.diffusion_model, "_orig_mod"):
        raise InterventionError(
            "The MODEL is compiled or spread over GPUs; the tracer's hooks would not run. Trace the plain model."
        )

    @functools.cache
    def sites_of(unet: torch.nn.Module) -> dict[str, Site]:
        return {site.name: site for site in unet_sites(unet)}

    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Any:
        options = _options_of(args, kwargs)
        parts = options["cond_or_uncond"]
        size = len(args[0]) // len(parts)
        chosen = [i for i, part in enumerate(parts) if branch == "both" or part == POSITIVE]
        step = step_of(options)
        with patching(
            sites_of(executor.class_obj),
            patches_of(size),
            index=lambda row: [part * size + row for part in chosen],
            step=lambda: step,
        ):
            return executor(*args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, WRAPPER, wrapper)
    return clone


def restore_in_unet(
    model: comfy.model_patcher.ModelPatcher,
    corrupted: CorruptedPrompt,
    sites: Sequence[str],
    *,
    steps: range | None = None,
    branch: str = "cond",
) -> comfy.model_patcher.ModelPatcher:
    """A MODEL that any stock sampler paints the restored run with, given the corrupted CONDITIONING as positive.

    The clean run rides along as the second half of the batch and is taken off the result.

    Raises:
        InterventionError: see :func:`with_patches`; while sampling: the positive conditioning is not the corrupted one,
            or the sampler draws noise on the way.
    """
    clean = corrupted.encode([Restoration(None)])

    def patches_of(size: int) -> list[Patch]:
        half = size // 2
        return [Patch(site, row, half + row, None, steps) for site in sites for row in range(half)]

    def outer(executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_noisy(sampler)
        guider, rows = executor.class_obj, len(noise)
        guider.conds = {**guider.conds, "positive": _with_clean(guider.conds.get("positive"), clean, rows)}
        mask, callback, *rest = (*args, None, None)[: max(2, len(args))]
        if mask is not None and len(mask) == rows and rows > 1:
            mask = torch.cat([mask, mask])

        def seen(step: int, x0: torch.Tensor, x: torch.Tensor, total: int) -> None:
            callback(step, x0[:rows], x[:rows], total)

        both = (torch.cat([noise, noise]), torch.cat([latent, latent]), sampler, sigmas, mask, callback and seen)
        if kwargs.get("latent_shapes"):
            kwargs["latent_shapes"] = [(2 * rows, *shape[1:]) for shape in kwargs["latent_shapes"]]
        return executor(*both, *rest, **kwargs)[:rows]

    restored = with_patches(model, patches_of, branch=branch)
    restored.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER, outer)
    return restored


def _refuse_noisy(sampler: Any) -> None:
    function = getattr(sampler, "sampler_function", None)
    if function is not None and "noise_sampler" in inspect.signature(function).parameters:
        raise InterventionError(
            f"The sampler {getattr(function, '__name__', function)} draws new noise at every step, different for the "
            f"clean and for the restored run. Choose one of {', '.join(samplers())}."
        )


def _with_clean(positive: list[dict[str, Any]] | None, clean: torch.Tensor, rows: int) -> list[dict[str, Any]]:
    if positive is None or len(positive) != 1 or positive[0].get("cross_attn") is None:
        raise InterventionError(
            f"The sampler has {len(positive or ())} positive conditionings; expected the one from Corrupt Prompt. "
            "Connect it directly, uncombined."
        )
    corrupted = positive[0]["cross_attn"]
    if corrupted.shape[1:] != clean.shape[1:] or rows % len(corrupted):
        raise InterventionError(
            f"The positive conditioning has shape {tuple(corrupted.shape)}, the clean run of the CORRUPTION "
            f"{tuple(clean.shape)}. Connect the corrupted CONDITIONING of the same Corrupt Prompt node to the sampler."
        )
    states = torch.cat([corrupted.repeat(rows // len(corrupted), 1, 1), clean.to(corrupted).repeat(rows, 1, 1)])
    return [{**positive[0], "cross_attn": states}]
