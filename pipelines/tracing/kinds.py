"""The pipelines that can be traced, and what they differ in: their text encoders, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..opened import PipelineError
from .settings import TraceSettings

_ONE = ("prompt_embeds",)
_TWO = (*_ONE, "pooled_prompt_embeds")


@dataclass(frozen=True)
class PipelineKind:
    """One class of diffusers' pipelines.

    Attributes:
        name: of the class.
        part: what the pipeline calls its image model.
        encoders: of each text encoder the ending of its name in the pipeline, and its name in those of sites.
        given: names of what the image model is given of a prompt, in the order in which ``encode_prompt`` returns it.
        more: names of what else ``encode_prompt`` may be told, beside the prompt.
        prompts: names under which ``encode_prompt`` wants further prompts, None for the same one.
        passes: whether guidance runs the image model once more for the negative prompt, in place of a larger batch.
        pooled: names of the encoders whose pooled vectors are read.
    """

    name: str
    part: str
    encoders: tuple[tuple[str, str], ...]
    given: tuple[str, ...] = _ONE
    more: tuple[str, ...] = ("clip_skip",)
    prompts: tuple[str, ...] = ()
    passes: bool = False
    pooled: tuple[str, ...] = ()

    def encode(
        self, pipe: Any, prompts: Sequence[str], settings: TraceSettings, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """What the image model is given of some prompts, by the pipeline's own ``encode_prompt``; hooks that are in
        place may make the rows differ."""
        return self._called(pipe, list(prompts), settings, device, None)[0]

    def encode_negative(
        self, pipe: Any, prompt: str, settings: TraceSettings, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """The same of the negative prompt, one row, under its own names."""
        if self.passes:
            found = self._called(pipe, [settings.negative or ""], settings, device, None)[0]
        else:
            negative = None if settings.negative is None else [settings.negative]
            found = self._called(pipe, [prompt], settings, device, negative, guided=True)[1]
        return {f"negative_{name}": value for name, value in found.items()}

    def _called(
        self,
        pipe: Any,
        prompts: list[str],
        settings: TraceSettings,
        device: torch.device,
        negative: list[str] | None,
        *,
        guided: bool = False,
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        options: dict[str, Any] = {name: None for name in self.prompts}
        if not self.passes:
            options |= {"do_classifier_free_guidance": guided, "negative_prompt": negative}
        if "clip_skip" in self.more:
            options["clip_skip"] = settings.clip_skip or None
        if "max_sequence_length" in self.more and settings.max_sequence_length is not None:
            options["max_sequence_length"] = settings.max_sequence_length
        found = pipe.encode_prompt(prompt=prompts, device=device, num_images_per_prompt=1, **options)
        if self.passes:
            return dict(zip(self.given, found, strict=False)), {}
        positive, against = found[0::2], found[1::2]
        return dict(zip(self.given, positive, strict=True)), dict(zip(self.given, against, strict=True))

    def guided(self, pipe: Any, settings: TraceSettings) -> bool:
        """Whether the pipeline runs the negative prompt too."""
        if self.passes:
            return settings.true_guidance > 1
        assert settings.guidance is not None
        # Distilled models are told the guidance as a number.
        told = getattr(getattr(pipe, self.part).config, "time_cond_proj_dim", None) is not None
        return settings.guidance > 1 and not told

    def arguments(self, settings: TraceSettings) -> dict[str, Any]:
        """What the pipeline is called with, beside latents and what it reads of the prompt."""
        found: dict[str, Any] = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance,
            "height": settings.height,
            "width": settings.width,
        }
        if self.passes:
            found["true_cfg_scale"] = settings.true_guidance
        if "max_sequence_length" in self.more and settings.max_sequence_length is not None:
            found["max_sequence_length"] = settings.max_sequence_length
        return found

    def noise(self, pipe: Any, seed: int, settings: TraceSettings) -> torch.Tensor:
        """The seed's noise (1, channels, height, width), as ComfyUI draws it: in fp32 on the CPU."""
        assert settings.height and settings.width
        channels, scale = int(getattr(pipe, self.part).config.in_channels), int(pipe.vae_scale_factor)
        if self.packs:
            shape = (1, channels // 4, settings.height // scale, settings.width // scale)
        else:
            shape = (1, channels, settings.height // scale, settings.width // scale)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    @property
    def packs(self) -> bool:
        """Whether the pipeline holds 2 x 2 squares of the latent as one token."""
        return self.passes

    def packed(self, pipe: Any, latents: torch.Tensor) -> torch.Tensor:
        """Latents (n, channels, height, width) as the pipeline's own loop holds them."""
        return pipe._pack_latents(latents, *latents.shape) if self.packs else latents

    def unpacked(self, pipe: Any, latents: torch.Tensor, settings: TraceSettings) -> torch.Tensor:
        """The inverse of :meth:`packed`."""
        if not self.packs:
            return latents
        return pipe._unpack_latents(latents, settings.height, settings.width, pipe.vae_scale_factor)

    def resolved(self, pipe: Any, settings: TraceSettings) -> TraceSettings:
        """Settings with the pipeline's own defaults in the place of None.

        Raises:
            PipelineError: a setting that this pipeline does not have, or a size that it cannot paint.
        """
        if settings.true_guidance != 1 and not self.passes:
            raise PipelineError(f"{self.name} has no true_guidance; set guidance, and leave true_guidance at 1.")
        if settings.clip_skip and "clip_skip" not in self.more:
            raise PipelineError(f"{self.name} has no clip_skip; leave it at 0.")
        if settings.clip_skip and self.given == _ONE and not hasattr(pipe.text_encoder, "text_model"):
            raise PipelineError(
                f"clip_skip is {settings.clip_skip}; {self.name} reads it of text_encoder.text_model, which a "
                f"{type(pipe.text_encoder).__name__} of transformers 5 does not have, so that the pipeline itself "
                "fails with it. Leave it at 0, or install transformers 4."
            )
        if settings.max_sequence_length is not None and "max_sequence_length" not in self.more:
            raise PipelineError(f"{self.name} has no max_sequence_length; leave it out.")
        defaults = inspect.signature(type(pipe).__call__).parameters
        chosen: dict[str, Any] = {}
        if settings.guidance is None:
            chosen["guidance"] = float(defaults["guidance_scale"].default)
        if "max_sequence_length" in self.more and settings.max_sequence_length is None:
            chosen["max_sequence_length"] = int(defaults["max_sequence_length"].default)
        scale = int(pipe.vae_scale_factor)
        step = max(8, scale * (2 if self.packs else int(getattr(pipe, "patch_size", 1))))
        for name in ("height", "width"):
            size = getattr(settings, name) or _own_size(pipe, self.part, name) * scale
            if size % step:
                raise PipelineError(f"The {name} is {size} pixels; {self.name} paints multiples of {step}.")
            chosen[name] = size
        return replace(settings, **chosen)


def _own_size(pipe: Any, part: str, name: str) -> int:
    """The side of the latent that a pipeline paints when it is not told."""
    size = getattr(pipe, "default_sample_size", None) or getattr(pipe, part).config.sample_size
    return int(size if isinstance(size, int) else size[name == "width"])


KINDS = {
    kind.name: kind
    for kind in (
        PipelineKind("StableDiffusionPipeline", "unet", (("", ""),)),
        PipelineKind(
            "StableDiffusionXLPipeline", "unet", (("", "l"), ("_2", "g")), _TWO, prompts=("prompt_2",), pooled=("g",)
        ),
        PipelineKind(
            "StableDiffusion3Pipeline",
            "transformer",
            (("", "l"), ("_2", "g"), ("_3", "t5")),
            _TWO,
            ("clip_skip", "max_sequence_length"),
            ("prompt_2", "prompt_3"),
            pooled=("l", "g"),
        ),
        PipelineKind(
            "FluxPipeline",
            "transformer",
            (("", "l"), ("_2", "t5")),
            _TWO,
            ("max_sequence_length",),
            ("prompt_2",),
            passes=True,
            pooled=("l",),
        ),
    )
}
"""By the names of their classes."""


def kind_of(pipe: Any) -> PipelineKind:
    """What a pipeline is.

    Raises:
        PipelineError: it is none that can be traced.
    """
    found = next((KINDS[one.__name__] for one in type(pipe).__mro__ if one.__name__ in KINDS), None)
    if found is None:
        raise PipelineError(f"Found {type(pipe).__name__}; expected one of {', '.join(KINDS)}.")
    return found


def rows_of(tensors: Mapping[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    """Tensors of one row, repeated."""
    return {name: value.expand(rows, *value.shape[1:]) for name, value in tensors.items()}
