"""ComfyUI's MODEL objects, as the tracer sees them: a painter of many rows from one latent."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from ....tracing.runs.interventions import InterventionError, Patch
from ....tracing.runs.lockstep import Painter
from ..objects import Conditioning, Executor, Latent, Model, Sampler, Vae
from .patched_model import WRAPPER, taking_rows, with_patches

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
# What ``CFGGuider.outer_sample`` takes by place, with its defaults.
_SAMPLE: dict[str, Any] = {
    "noise": None,
    "latent_image": None,
    "sampler": None,
    "sigmas": None,
    "denoise_mask": None,
    "callback": None,
    "disable_pbar": False,
    "seed": None,
}


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


@dataclass(frozen=True)
class InitialLatent:
    """The one latent that every picture starts from, as the stock sampler reads a LATENT.

    Attributes:
        image: (1, channels, height, width) with as many channels as the model has; (1, channels, 1, height, width) for
            a model that also paints video.
        mask: (1, channels, height, width) in [0, 1], where noise is removed; None: everywhere.
        batch_index: which of the noises that a seed gives is taken; None: the first.
    """

    image: torch.Tensor
    mask: torch.Tensor | None
    batch_index: Sequence[int] | None

    @classmethod
    def of(cls, model: Model, latent: Latent) -> InitialLatent:
        """Read a LATENT.

        Raises:
            ValueError: it is not of pictures, or holds more than one.
        """
        samples = latent["samples"]
        if getattr(samples, "is_nested", False) or not (
            samples.ndim == 4 or (samples.ndim == 5 and samples.shape[2] == 1)
        ):
            raise ValueError(
                f"Tracing paints pictures; the latent is {_described(samples)}. Connect the latent of a picture, such "
                "as Empty Latent Image gives."
            )
        if len(samples) != 1:
            raise ValueError(
                f"Tracing paints from one initial latent; got a batch of {len(samples)}. Set batch_size to 1 and trace "
                "several seeds instead."
            )
        scale = {key: latent[key] for key in ("downscale_ratio_spacial",) if latent.get(key) is not None}
        image = comfy.sample.fix_empty_latent_channels(model, samples, **scale)
        mask = latent.get("noise_mask")
        if mask is not None:
            mask = comfy.utils.reshape_mask(mask, image.shape)
        return cls(image, mask, latent.get("batch_index"))

    def noise(self, seed: int) -> torch.Tensor:
        """The initial noise of a seed, of the image's shape."""
        return comfy.sample.prepare_noise(self.image, seed, self.batch_index)


def _described(samples: Any) -> str:
    if getattr(samples, "is_nested", False):
        return "one of several streams (video with sound)"
    return f"of shape {tuple(samples.shape)}, expected (1, channels, height, width)"


def make_painter(
    model: Model,
    negative: Conditioning,
    latent: InitialLatent,
    settings: SamplerSettings,
    *,
    branch: str = "cond",
) -> Painter:
    """A painter (see ``tracing.lockstep``) that runs ComfyUI's own sampler on a MODEL.

    What it is given of the text is a CONDITIONING with one row for each picture.

    Args:
        branch: "cond" or "both" halves of the guidance.

    Raises:
        ValueError: the sampler draws noise at every step.
    """
    if settings.sampler not in samplers():
        raise ValueError(
            f"The sampler {settings.sampler!r} draws new noise at every step, so clean and restored runs could not be "
            f"compared. Choose one of {', '.join(samplers())}."
        )

    plain = taking_rows(model)
    plain.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, WRAPPER, _as_one_picture)

    def paint(states: Conditioning, seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        rows = len(states[0][0])
        patched = with_patches(plain, _fixed(patches, rows), branch=branch) if patches else plain
        return comfy.sample.sample(
            patched,
            _repeated(latent.noise(seed), rows),
            settings.steps,
            settings.cfg,
            settings.sampler,
            settings.scheduler,
            [[one, dict(more)] for one, more in states],
            negative,
            _repeated(latent.image, rows),
            noise_mask=latent.mask,
            disable_pbar=True,
            seed=seed,
            callback=lambda *_: comfy.model_management.throw_exception_if_processing_interrupted(),
        )

    return paint


def _repeated(one: torch.Tensor, rows: int) -> torch.Tensor:
    return one.repeat(rows, *(1 for _ in one.shape[1:]))


def pictures_of(vae: Vae, latents: torch.Tensor) -> torch.Tensor:
    """Pictures (n, height, width, 3) of latents; of a VAE that is made for video, one frame each."""
    pictures = vae.decode(latents)
    return pictures[:, 0] if pictures.ndim == 5 else pictures


def arguments_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a guider's ``outer_sample`` by their names, however a wrapper was given them."""
    return {**_SAMPLE, **dict(zip(_SAMPLE, args, strict=False)), **kwargs}


def sample_on(executor: Executor, given: Mapping[str, Any]) -> torch.Tensor:
    """Go on with arguments by their names; the next wrapper is given them by place, as ComfyUI does."""
    more = {name: value for name, value in given.items() if name not in _SAMPLE}
    return executor(*(given[name] for name in _SAMPLE), **more)


def _as_one_picture(executor: Executor, *args: Any, **kwargs: Any) -> torch.Tensor:
    given = arguments_of(args, kwargs)
    alike = sampling_alike(given["sampler"], given["noise"][:1].shape, given["seed"])
    return sample_on(executor, {**given, "sampler": alike})


def sampling_alike(sampler: Sampler, shape: Sequence[int], seed: int | None) -> Sampler:
    """A sampler that treats each group of rows of a batch as it would treat the group alone.

    "ddim" keeps what a noise mask protects by adding noise of its own to it, drawn for the whole batch at once: every
    row has another. Others add the initial noise, which the rows share already.

    Args:
        shape: of the noise of one group.
        seed: the sampling's; None: ComfyUI's own 41.
    """
    if not getattr(sampler, "inpaint_options", {}).get("random", False):
        return sampler
    one = torch.randn(list(shape), generator=torch.Generator().manual_seed((41 if seed is None else seed) + 1))
    function = sampler.sampler_function  # type: ignore[attr-defined]

    @functools.wraps(function)
    def sharing(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        model.noise = one.repeat(len(model.noise) // len(one), *(1 for _ in shape[1:])).to(model.noise)
        return function(model, *args, **kwargs)

    # A copy: the sampler belongs to the node that made it.
    alike = copy.copy(sampler)
    alike.sampler_function = sharing  # type: ignore[attr-defined]
    return alike


def _fixed(patches: Sequence[Patch], rows: int) -> Callable[[int], Sequence[Patch]]:
    def patches_of(size: int) -> Sequence[Patch]:
        if size != rows:
            raise InterventionError(
                f"The image model was given {size} rows a conditioning; expected {rows}. Another node changes the "
                "batch."
            )
        return patches

    return patches_of
