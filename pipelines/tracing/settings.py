"""What a trace of a pipeline is asked for, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ...tracing.runs.corruption import ALL_ENCODERS, EXTENTS, CorruptionSettings
from ..opened import PipelineError

COMPONENTS, COLUMNS, BRANCHES = ("text", "image"), ("places", "tokens"), ("cond", "both")
LATENT, CLIP = "latent", "clip:"


@dataclass(frozen=True)
class TraceSettings:
    """Everything that decides the scores of a trace beside the pipeline, the prompt and the seeds; JSON values.

    Attributes:
        component: "text", the text encoders, or "image", the image model.
        sites: shell patterns of the sites' names, divided by commas or spaces.
        window: neighbouring sites restored together.
        columns: of a text trace: "places" (the same roles for every prompt) or "tokens".
        step_windows: of an image trace: into how many windows the scheduler's steps are divided.
        branch: "cond" restores in the prompt's half of the guidance, "both" in both.
        noise: std of the noise, as a multiple of the std of the embeddings that it hides.
        draws: how many draws of the noise.
        noise_seed: seed of the noise.
        replaced_by: words whose embeddings take the subject's place; there is no noise then.
        extent: "subject" or "whole prompt" is hidden.
        encoder: the text encoder in which it is hidden, or "all".
        controls: null restorations for each prompt, seed and draw.
        sever: downstream sites of this kind are held corrupted.
        steps: as the pipeline's num_inference_steps.
        guidance: as its guidance_scale; None: its own default.
        true_guidance: as its true_cfg_scale, of Flux alone.
        negative: the negative prompt; None: what the pipeline takes without one.
        height, width: of the pictures, in pixels; None: the pipeline's own.
        clip_skip: as the pipeline's own argument says it.
        max_sequence_length: T5's tokens; None: the pipeline's own default.
        score: "latent", the distance of the final latents, or "clip:FOLDER", CLIPScore by a CLIP in a folder of
            transformers' format.
        rows: pictures painted at once; it changes no score beyond rounding.

    Raises:
        PipelineError: a value that is none of those named.
    """

    component: str = "text"
    sites: str = "*"
    window: int = 1
    columns: str = COLUMNS[0]
    step_windows: int = 1
    branch: str = BRANCHES[0]
    noise: float = 3.0
    draws: int = 1
    noise_seed: int = 0
    replaced_by: str = ""
    extent: str = EXTENTS[0]
    encoder: str = ALL_ENCODERS
    controls: int = 2
    sever: str | None = None
    steps: int = 20
    guidance: float | None = None
    true_guidance: float = 1.0
    negative: str | None = None
    height: int | None = None
    width: int | None = None
    clip_skip: int = 0
    max_sequence_length: int | None = None
    score: str = LATENT
    rows: int = 12

    def __post_init__(self) -> None:
        for name, allowed in (("component", COMPONENTS), ("columns", COLUMNS), ("branch", BRANCHES)):
            if getattr(self, name) not in allowed:
                raise PipelineError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(allowed)}.")
        for name, least in (("steps", 1), ("draws", 1), ("window", 1), ("rows", 1), ("controls", 0), ("clip_skip", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise PipelineError(f"{name} is {value!r}; expected a whole number of at least {least}.")
        if self.score != LATENT and not self.score.startswith(CLIP):
            raise PipelineError(f"score is {self.score!r}; expected {LATENT!r}, or {CLIP!r} and a folder's name.")
        _ = self.corruption

    @property
    def corruption(self) -> CorruptionSettings:
        """How a subject is hidden."""
        return CorruptionSettings(self.noise, self.draws, self.noise_seed, self.replaced_by, self.extent, self.encoder)

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, as JSON holds them."""
        return asdict(self)

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> TraceSettings:
        """Settings from :meth:`as_dict`; what is missing has its default.

        Raises:
            PipelineError: a name that is no setting.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise PipelineError(f"Unknown settings {', '.join(unknown)}; expected some of {', '.join(sorted(known))}.")
        return cls(**values)
