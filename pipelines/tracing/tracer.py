"""Causal traces of a diffusers pipeline, one prompt at a time."""

from __future__ import annotations

import copy
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...families.heads import with_heads
from ...families.sites import Site, select, windows
from ...families.transformer import image_sites
from ...text.marked import parse_prompts
from ...text.subjects import SubjectError
from ...tracing.results.trace import CausalTrace
from ...tracing.runs.cases import Case
from ...tracing.runs.columns import place_columns, token_columns
from ...tracing.runs.lockstep import Progress, Score, sweep
from ...tracing.runs.plan import Plan, step_columns
from ...tracing.runs.readings import Reading, shares_of
from ...tracing.scores.clip import ClipScorer
from ...tracing.scores.latent import LATENT_DISTANCE, latent_distance
from ..opened import PipelineError
from .checks import require_traceable
from .encoders import PipelineEncoder, open_encoders
from .encoding import Encoding
from .identity import Identity
from .kinds import kind_of
from .loading import load_pipeline
from .painter import PipelinePainter
from .settings import CLIP, LATENT, TraceSettings

# Pictures (n, height, width, 3) in [0, 1] and the prompt to one number for each; its ``name`` stands in the trace.
Scorer = Callable[[torch.Tensor, str], torch.Tensor]


class PipelineTracer:
    """Traces prompts of one pipeline with one set of settings; the pipeline is left as it was.

    Attributes:
        pipe: the pipeline.
        settings: with the pipeline's own defaults in the place of None.
    """

    def __init__(self, pipe: Any, settings: TraceSettings, scorer: Scorer | None = None) -> None:
        """
        Args:
            scorer: scores pictures in place of ``settings.score``.

        Raises:
            PipelineError: the pipeline, or it with these settings, cannot be traced.
            SiteError: no site fits.
            ScorerError: the folder of ``settings.score`` holds no CLIP.
        """
        self.pipe, self._kind = pipe, kind_of(pipe)
        require_traceable(pipe, self._kind)
        self.settings = self._kind.resolved(pipe, settings)
        self._scorer = scorer or _scorer_of(settings.score, pipe)
        if self._scorer is not None and getattr(pipe, "vae", None) is None:
            raise PipelineError(f"Found a {self._kind.name} without a vae; a score of pictures needs one.")
        if self._scorer is not None and not getattr(self._scorer, "name", ""):
            raise PipelineError("The scorer has no name; give it an attribute name that says what is measured.")
        length = self.settings.max_sequence_length
        self._encoders = open_encoders(pipe, self._kind, length, settings.encoder)
        self._image = with_heads(image_sites(getattr(pipe, self._kind.part)), self.settings.sites)
        _ = self._groups()
        scored = {} if self._scorer is None else {"vae": pipe.vae, "scorer": getattr(self._scorer, "model", None)}
        self._identity = Identity(pipe, self._kind, scored)

    def with_settings(self, settings: TraceSettings) -> PipelineTracer:
        """The same pipeline and scorer with other settings; weights that are known are not read again for their
        digests. For the errors, see the class."""
        found = PipelineTracer(self.pipe, settings, self._scorer)
        found._identity = self._identity
        return found

    @property
    def identity(self) -> Mapping[str, str]:
        """Digests of everything of the pipeline that a score depends on, as it is now."""
        found = self._identity.now()
        return found if self._scorer is None else {**found, "scorer": str(getattr(self._scorer, "name", ""))}

    @property
    def sites(self) -> tuple[Site, ...]:
        """Those of the component that is traced, in running order."""
        if self.settings.component == "image":
            return self._image
        return with_heads((site for one in self._encoders for site in one.sites()), self.settings.sites)

    @torch.no_grad()
    def trace(
        self,
        prompt: str,
        seeds: Sequence[int],
        *,
        progress: Progress | None = None,
        checkpoint: Path | None = None,
    ) -> CausalTrace:
        """Trace one prompt.

        Args:
            prompt: with its subject in brackets.
            seeds: of the initial noises, which are ComfyUI's of the same seeds.
            progress: told rows done, rows in all, and the latest latents.
            checkpoint: a trace file that is kept up to date; what it holds is not measured again.

        Raises:
            SubjectError: not exactly one subject in brackets, or a text encoder does not read it.
            PromptError: a prompt that is too long.
            PipelineError: the pipeline has changed so that it cannot be traced.
            InterventionError: a site did not run.
            TraceError: nothing to trace, or the checkpoint is another trace's.
        """
        require_traceable(self.pipe, self._kind)
        settings, pipe = self.settings, self.pipe
        text, subject, readings = self._read(prompt)
        encoding = Encoding.of(pipe, self._kind, settings, readings)
        # Behind the first encoding: an offloaded encoder has been loaded by then.
        shares = shares_of(readings, settings.corruption, pipe._execution_device)
        plan, spots = self._plan(readings, seeds)
        case = Case(text, subject, shares, encoding.rows, spots, encoding.given)
        guided = self._kind.guided(pipe, settings)
        negative = self._kind.encode_negative(pipe, text, settings, pipe._execution_device) if guided else {}
        counted = None if plan.steps in ((), (None,)) else self._timesteps()
        painter = PipelinePainter(pipe, self._kind, settings, self._image, negative, counted)
        kept = {key: value for key, value in settings.as_dict().items() if key != "rows"}
        done = sweep(
            [case],
            plan,
            painter,
            self._score(),
            rows=settings.rows,
            score_name=LATENT_DISTANCE if self._scorer is None else str(getattr(self._scorer, "name", "")),
            settings={**kept, "made_with": dict(self.identity)},
            examples=0,
            checkpoint=checkpoint,
            progress=progress or _untold,
        )
        return done.trace

    def _read(self, prompt: str) -> tuple[str, str, tuple[Reading[PipelineEncoder], ...]]:
        found = parse_prompts(prompt)
        if len(found) != 1:
            raise SubjectError(f"Got {len(found)} prompts; expected one. Trace them one by one.")
        text, subject = (unicodedata.normalize("NFC", part) for part in found[0])
        return text, subject, tuple(one.read(text, subject, self.settings.replaced_by) for one in self._encoders)

    def _groups(self) -> tuple[tuple[Site, ...], ...]:
        return windows(select(self.sites, names=self.settings.sites), self.settings.window)

    def _plan(self, readings: Sequence[Reading[PipelineEncoder]], seeds: Sequence[int]) -> tuple[Plan, tuple[Any, ...]]:
        """What is swept, and the positions of each column."""
        settings, groups = self.settings, self._groups()
        common: dict[str, Any] = {
            "draws": settings.corruption.traced,
            "controls": settings.controls,
            "sever": settings.sever,
        }
        if settings.component == "image":
            labels, steps = step_columns(self._timesteps(), settings.step_windows)
            return Plan("unet", groups, self.sites, labels, tuple(seeds), steps, **common), ()
        chosen = {group[0].encoder for group in groups}
        tokens = settings.columns == "tokens"
        made = token_columns(readings, chosen) if tokens else place_columns([readings], chosen, every=True)
        plan = Plan("text", groups, self.sites, made.labels, tuple(seeds), **common)
        return replace(plan, empty=made.empty(groups, [readings])), made.spots[0]

    def _timesteps(self) -> int:
        """How many steps the scheduler makes; some make more than they are asked for."""
        scheduler = copy.deepcopy(self.pipe.scheduler)
        if type(scheduler).__name__.startswith("FlowMatch"):
            return self.settings.steps
        scheduler.set_timesteps(self.settings.steps)
        return len(scheduler.timesteps)

    def _score(self) -> Score:
        scorer = self._scorer
        if scorer is None:
            return latent_distance

        def score(results: torch.Tensor, clean: torch.Tensor, prompt: str) -> torch.Tensor:
            return scorer(self.pictures(results), prompt)

        return score

    @torch.no_grad()
    def paint(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """Final latents (prompts, channels, height, width) of prompts as they are, with nothing hidden or restored, all
        from the seed's noise; see :meth:`pictures`."""
        require_traceable(self.pipe, self._kind)
        settings, kind, pipe = self.settings, self._kind, self.pipe
        found = []
        for start in range(0, len(prompts), settings.rows):
            some = prompts[start : start + settings.rows]
            device = pipe._execution_device
            states = kind.encode(pipe, some, settings, device)
            guided = kind.guided(pipe, settings)
            negative = kind.encode_negative(pipe, some[0], settings, device) if guided else {}
            found.append(PipelinePainter(pipe, kind, settings, self._image, negative)(states, seed, ()))
        return torch.cat(found)

    @property
    def scorer(self) -> Scorer | None:
        """What scores pictures; None where latents are compared."""
        return self._scorer

    @torch.no_grad()
    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures (n, height, width, 3) in [0, 1] of final latents, in fp32."""
        vae = self.pipe.vae
        before = vae.dtype
        try:
            # SDXL's autoencoder overflows in fp16; the pipeline makes it wider while it decodes, too.
            if before == torch.float16 and getattr(vae.config, "force_upcast", False):
                vae.to(torch.float32)
            found = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
        finally:
            if vae.dtype != before:
                vae.to(before)
        return found.float().add(1).div(2).clamp(0, 1).movedim(1, -1)


def _untold(done: int, total: int, results: torch.Tensor) -> None:
    """Progress that nobody asked for."""


def _scorer_of(score: str, pipe: Any) -> Scorer | None:
    if score == LATENT:
        return None
    scorer = ClipScorer.from_folder(Path(score.removeprefix(CLIP)))
    scorer.model.to(pipe._execution_device)
    return scorer


def open_tracer(
    model: Any,
    settings: TraceSettings,
    *,
    device: Any = None,
    dtype: torch.dtype | str | None = None,
    scorer: Scorer | None = None,
) -> PipelineTracer:
    """Open a pipeline for tracing.

    Args:
        model: a pipeline, or the path of a folder that holds one.
        device, dtype: of a pipeline that is loaded from a folder.
        scorer: scores pictures in place of ``settings.score``: (n, height, width, 3) in [0, 1] and the prompt to n
            numbers, the larger the nearer to the prompt; its ``name`` says what it measures.

    Raises:
        PipelineError: the folder or pipeline cannot be traced; a given pipeline has a device and a dtype of its own.
    """
    if isinstance(model, str | Path):
        return PipelineTracer(load_pipeline(model, device=device, dtype=dtype), settings, scorer)
    if device is not None or dtype is not None:
        raise PipelineError("A pipeline has its own device and dtype; move it yourself: pipe.to(device, dtype).")
    return PipelineTracer(model, settings, scorer)


def trace(
    pipe: Any,
    prompt: str,
    component: str = "text",
    *,
    seeds: Sequence[int] = (0,),
    score: str | Scorer = LATENT,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    **settings: Any,
) -> CausalTrace:
    """Trace one prompt of a diffusers pipeline; the pipeline is left as it was.

    ::

        found = trace(pipe, "a house in the style of [van gogh]", sites="text.*.self_attn", seeds=[0, 1])

    Args:
        pipe: a StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline or FluxPipeline, or the
            path of a folder that holds one.
        prompt: with its subject in brackets.
        component: "text" or "image".
        seeds: of the initial noises.
        score: "latent", "clip:FOLDER", or a scorer of pictures as :func:`open_tracer` takes it.
        progress: told rows done, rows in all, and the latest latents.
        checkpoint: a trace file that is kept up to date.
        settings: see :class:`TraceSettings`.

    Raises:
        PipelineError, SubjectError, SiteError, InterventionError, TraceError: it cannot be traced.
    """
    own = score if callable(score) else None
    named = {"component": component, "score": LATENT if callable(score) else score}
    tracer = open_tracer(pipe, TraceSettings.of_dict({**settings, **named}), scorer=own)
    return tracer.trace(prompt, seeds, progress=progress, checkpoint=checkpoint)
