"""Causal traces of Shapes for a sweep: one prompt at a time, by settings that are plain values."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..families.sites import select, windows
from ..families.text_stacks import text_sites
from ..families.unet import unet_sites
from ..text.subjects import PLACES, SubjectError
from ..tracing.results.trace import CausalTrace
from ..tracing.runs.lockstep import sweep
from ..tracing.runs.plan import Plan
from ..tracing.scores.latent import LATENT_DISTANCE, latent_distance
from .pipeline import ShapesPipeline, load_pipeline
from .traced import TracedSampler, make_case

_MARKED = r"\[([^\[\]]+)\]"


@dataclass(frozen=True)
class ShapesSettings:
    """What decides the scores of a trace of Shapes, beside the prompt and the seeds.

    Attributes:
        component: "text", the text encoder at each of ``prompts.PLACES``, or "image", the UNet at all steps.
        sites: shell patterns of the sites' names, divided by commas or spaces.
        window: neighbouring sites restored together.
        noise: std of the noise, as a multiple of the std of the embeddings that it hides.
        draws: how many draws of the noise.
        noise_seed: seed of the noise.
        controls: null restorations for each prompt, seed and draw.
        steps: of DDIM.
        guidance: of the prompt.
        rows: pictures painted at once.

    Raises:
        ValueError: a component that is neither.
    """

    component: str = "text"
    sites: str = "*"
    window: int = 1
    noise: float = 3.0
    draws: int = 1
    noise_seed: int = 0
    controls: int = 2
    steps: int = 20
    guidance: float = 5.0
    rows: int = 24

    def __post_init__(self) -> None:
        if self.component not in ("text", "image"):
            raise ValueError(f"component is {self.component!r}; expected text or image.")


class ShapesTracer:
    """Shapes with settings; the score is the distance of the final latents."""

    def __init__(self, settings: ShapesSettings, pipeline: ShapesPipeline | None = None) -> None:
        self._settings, self._pipeline = settings, pipeline or load_pipeline()
        self._sampler = TracedSampler(self._pipeline, steps=settings.steps, guidance=settings.guidance)
        text = settings.component == "text"
        self._sites = text_sites(self._pipeline.text_encoder) if text else unet_sites(self._pipeline.unet)
        self._groups = windows(select(self._sites, names=settings.sites), settings.window)

    @functools.cached_property
    def identity(self) -> Mapping[str, str]:
        """SHA-256 of the weights of the text encoder and of the UNet."""
        parts = {"text encoder": self._pipeline.text_encoder, "image model": self._pipeline.unet}
        return {name: _weights_hash(part.state_dict()) for name, part in parts.items()}

    @torch.no_grad()
    def trace(self, prompt: str, seeds: Sequence[int]) -> CausalTrace:
        """The trace of a prompt whose subject stands in [brackets].

        Raises:
            SubjectError: no subject, or several.
        """
        asked, marked = self._settings, re.findall(_MARKED, prompt)
        if len(marked) != 1:
            raise SubjectError(f"Found {len(marked)} subjects in brackets in {prompt!r}; expected exactly one.")
        plain, subject = re.sub(_MARKED, r"\1", prompt), marked[0].strip()
        case = make_case(self._pipeline, plain, subject, multiple=asked.noise, draws=asked.draws, seed=asked.noise_seed)
        text = asked.component == "text"
        plan = Plan(
            "text" if text else "unet",
            self._groups,
            self._sites,
            PLACES if text else ("all steps",),
            tuple(seeds),
            () if text else (None,),
            draws=asked.draws,
            controls=asked.controls,
        )
        return sweep(
            [case],
            plan,
            self._sampler,
            latent_distance,
            rows=asked.rows,
            score_name=LATENT_DISTANCE,
            settings={**asdict(asked), "model": "Shapes"},
            examples=0,
        ).trace


def _weights_hash(state: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(state.items()):
        found.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
