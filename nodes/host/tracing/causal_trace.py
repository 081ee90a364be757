"""Causal traces on ComfyUI objects: what the two sweeping nodes run."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import comfy.utils
import folder_paths
import latent_preview
import torch

from ....families.heads import with_heads
from ....families.sites import Site, select, windows
from ....families.transformer import image_sites
from ....tracing.results.examples import examples_of
from ....tracing.results.trace import PROBES, CausalTrace
from ....tracing.runs.lockstep import Score, Sweep, sweep
from ....tracing.runs.plan import Plan
from ....tracing.scores.latent import LATENT_DISTANCE, latent_distance
from ..files import SUFFIX
from ..heatmap import send_partial
from ..identity import clip_parts, identities, patcher_parts, vae_parts
from ..objects import Clip, Conditioning, ImageScorer, Latent, Model, Vae
from ..progress import duration, say
from .columns import place_columns, token_columns
from .corrupted import CorruptedPrompt, CorruptionSettings, corrupt_prompt, parse_prompts
from .encoders import ALL_ENCODERS
from .memory import rows_that_fit
from .sampling import InitialLatent, SamplerSettings, make_painter, pictures_of

log = logging.getLogger("diff_quickfix")

# When the page is first shown what is traced so far, and how often at most.
_FIRST_PARTIAL_S, _PARTIAL_S = 1.0, 2.0
# Pictures painted at once. More cost memory and gain little on the machines that need the gain.
DEFAULT_ROWS = 12


@dataclass(frozen=True)
class TraceInputs:
    """What ComfyUI gives a trace.

    Attributes:
        negative: the negative conditioning, as for a KSampler.
        latent: one latent; what is painted starts from it.
        scorer: None: the distance of latents.
    """

    model: Model
    clip: Clip
    vae: Vae
    negative: Conditioning
    latent: Latent
    scorer: ImageScorer | None = None


@dataclass(frozen=True)
class TraceSettings:
    """Everything that both traces need besides the models.

    Attributes:
        prompts: lines with the subject in brackets.
        kinds: kinds of site, or None for all.
        sites: patterns of site names.
        window: neighbouring sites restored together.
        corruption: how the subjects are hidden.
        seed: first seed of the initial noise.
        seeds: how many initial noises, counted up from ``seed``.
        pictures: how many of the strongest cells get a restored picture.
        probe: what is done at a site, one of ``tracing.results.trace.PROBES``.
    """

    prompts: str
    kinds: tuple[str, ...] | None
    sites: str
    window: int
    corruption: CorruptionSettings
    seed: int
    seeds: int
    controls: int
    sampler: SamplerSettings
    sever: str | None = None
    rows: int = DEFAULT_ROWS
    pictures: int = 1
    probe: str = PROBES[0]

    def kept(self) -> dict[str, Any]:
        """What goes into the trace's file: not what changes no score, so that a checkpoint can go on without it."""
        kept = {key: value for key, value in asdict(self).items() if key not in ("prompts", "rows", "pictures")}
        if self.corruption.encoder == ALL_ENCODERS:
            del kept["corruption"]["encoder"]
        if self.probe == PROBES[0]:
            del kept["probe"]
        return kept


def trace_text(
    inputs: TraceInputs, settings: TraceSettings, *, columns: str = "tokens", checkpoint: Path | None = None
) -> tuple[Sweep, torch.Tensor]:
    """Trace the text encoders: sites x tokens.

    Args:
        columns: "tokens" (every token from the subject on; one prompt only, and encoders that cut it alike) or "places"
            (roles that all prompts share).

    Returns:
        The sweep, and its example pictures (2 + cells, height, width, 3), which the trace knows again.

    Raises:
        ValueError: tokens of several prompts, or of encoders that cut the prompt into different ones.
        SiteError: no site fits.
    """
    corrupted = _corrupt_all(inputs.clip, settings)
    if columns == "tokens" and len(corrupted) > 1:
        raise ValueError(
            f"Got {len(corrupted)} prompts; their tokens are not the same. Choose columns: places, or trace one prompt."
        )
    encoders = [[reading.encoder.name for reading in one.readings] for one in corrupted]
    if any(one != encoders[0] for one in encoders):
        raise ValueError(
            f"The prompts are read by different text encoders ({'; '.join(', '.join(one) for one in encoders)}). Trace "
            "those apart, or choose one encoder that reads all of them."
        )
    sites = with_heads(corrupted[0].sites, settings.sites)
    chosen = {site.encoder for site in select(sites, kinds=settings.kinds, names=settings.sites)}
    made = token_columns(corrupted[0], chosen) if columns == "tokens" else place_columns(corrupted, chosen)
    plan = _plan(settings, "text", sites, made.labels)
    plan = replace(plan, empty=made.empty(plan.groups, corrupted))
    prompts = [
        replace(one, case=replace(one.case, columns=spots)) for one, spots in zip(corrupted, made.spots, strict=True)
    ]
    return _run(inputs, settings, prompts, plan, checkpoint=checkpoint)


def trace_unet(
    inputs: TraceInputs,
    settings: TraceSettings,
    *,
    step_windows: int = 1,
    branch: str = "cond",
    checkpoint: Path | None = None,
) -> tuple[Sweep, torch.Tensor]:
    """Trace the image model: sites x step windows (one window: all steps)."""
    steps = settings.sampler.steps
    if not 1 <= step_windows <= steps:
        raise ValueError(f"Cannot divide {steps} steps into {step_windows} windows; choose 1 to {steps}.")
    bounds = [round(i * steps / step_windows) for i in range(step_windows + 1)]
    ranges = [range(a, b) for a, b in itertools.pairwise(bounds)]
    labels = (
        ("all steps",)
        if step_windows == 1
        else tuple(f"step {r[0] + 1}" if len(r) == 1 else f"steps {r[0] + 1}-{r[-1] + 1}" for r in ranges)
    )
    settings = _probing(settings)
    sites = with_heads(image_sites(inputs.model.model.diffusion_model), settings.sites)
    plan = _plan(settings, "unet", sites, labels, (None,) if step_windows == 1 else tuple(ranges))
    return _run(inputs, settings, _corrupt_all(inputs.clip, settings), plan, branch=branch, checkpoint=checkpoint)


def _probing(settings: TraceSettings) -> TraceSettings:
    """The settings as they are; a run that reads other text has no controls."""
    if settings.probe == PROBES[0]:
        return settings
    if settings.kinds != ("cross_context",):
        raise ValueError(
            "The probe other text changes what cross-attentions read; choose the kind cross_context. Models without "
            "cross-attention (Flux, Stable Diffusion 3, Qwen-Image, Z-Image) have no such sites: restore theirs."
        )
    if not settings.corruption.replaced_by.strip():
        raise ValueError("The probe other text needs replaced_by: the words that stand for the subject in the other.")
    if settings.sever is not None:
        raise ValueError("The probe other text has nothing to hold corrupted; set sever to nothing.")
    return replace(settings, controls=0)


def _corrupt_all(clip: Clip, settings: TraceSettings) -> list[CorruptedPrompt]:
    return [
        corrupt_prompt(
            clip, prompt, subject, replace(settings.corruption, seed=settings.corruption.seed + 7919 * number)
        )
        for number, (prompt, subject) in enumerate(parse_prompts(settings.prompts))
    ]


def _plan(
    settings: TraceSettings,
    component: str,
    sites: tuple[Site, ...],
    columns: tuple[str, ...],
    steps: tuple[range | None, ...] = (),
) -> Plan:
    return Plan(
        component,
        windows(select(sites, kinds=settings.kinds, names=settings.sites), settings.window),
        sites,
        columns,
        tuple(range(settings.seed, settings.seed + settings.seeds)),
        steps,
        draws=settings.corruption.traced,
        controls=settings.controls,
        sever=settings.sever,
        probe=settings.probe,
    )


def _run(
    inputs: TraceInputs,
    settings: TraceSettings,
    prompts: Sequence[CorruptedPrompt],
    plan: Plan,
    *,
    branch: str = "cond",
    checkpoint: Path | None = None,
) -> tuple[Sweep, torch.Tensor]:
    model, scorer = inputs.model, inputs.scorer
    latent = InitialLatent.of(model, inputs.latent)
    painter = make_painter(model, inputs.negative, latent, settings.sampler, branch=branch)
    kept = {
        **settings.kept(),
        "branch": branch,
        "size": list(latent.image.shape[2:]),
        "made_with": _made_with(inputs, prompts, latent, checkpoint),
    }
    own = checkpoint or _kept_for_now(prompts, plan, kept)
    done = sweep(
        [one.case for one in prompts],
        plan,
        painter,
        _score(inputs.vae, scorer),
        rows=rows_that_fit(model, latent.image.shape, settings.rows),
        score_name=LATENT_DISTANCE if scorer is None else scorer.name,
        settings=kept,
        progress=_progress(model),
        partial=_partial(),
        checkpoint=own,
        examples=settings.pictures,
    )
    if checkpoint is None:
        own.unlink(missing_ok=True)
    pictures = pictures_of(inputs.vae, done.examples)
    return replace(done, trace=replace(done.trace, examples=examples_of(done.cells, pictures))), pictures


def _kept_for_now(prompts: Sequence[CorruptedPrompt], plan: Plan, settings: Mapping[str, Any]) -> Path:
    """The file that keeps what is finished of a trace without a checkpoint, until ComfyUI is started again.

    Its name is of the settings and of all that the scores depend on: the same trace alone goes on with it.
    """
    named = [plan.component, plan.names(), plan.columns, plan.seeds, plan.draws, plan.controls, repr(plan.steps)]
    told = [*named, [(one.case.prompt, one.subject) for one in prompts], settings]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
    folder = Path(folder_paths.get_temp_directory()) / "diff_quickfix"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{digest[:32]}{SUFFIX}"


def _partial() -> Callable[[Callable[[], CausalTrace]], None]:
    """Shows what is traced so far on the page's heat maps, now and then."""
    next_time = time.monotonic() + _FIRST_PARTIAL_S

    def show(trace: Callable[[], CausalTrace]) -> None:
        nonlocal next_time
        started = time.monotonic()
        if started < next_time:
            return
        send_partial(trace())
        ended = time.monotonic()
        # Never more than a twentieth of the time.
        next_time = ended + max(_PARTIAL_S, 20 * (ended - started))

    return show


def _made_with(
    inputs: TraceInputs, prompts: Sequence[CorruptedPrompt], latent: InitialLatent, checkpoint: Path | None
) -> dict[str, str]:
    """Digests of everything that a score depends on and the settings do not tell, by the names that people know."""
    model, clip = patcher_parts(inputs.model), clip_parts(inputs.clip)
    tokens = [inputs.clip.tokenize(one.case.prompt) for one in prompts]
    named: list[tuple[str, Any]] = [
        *((f"model {part}", value) for part, value in model.items()),
        *((f"CLIP {part}", value) for part, value in clip.items()),
        ("negative", inputs.negative),
        ("latent", (latent.image, latent.mask, latent.batch_index)),
        ("tokens of the prompts", tokens),
        ("entries of the prompts", [dict(one) for one in prompts[0].options]),
    ]
    if inputs.scorer is not None:
        named += [("scorer", inputs.scorer), ("VAE", vae_parts(inputs.vae))]
    digests, foreign = identities(named)
    if foreign and checkpoint is not None:
        known = "; ".join(f"{name}: {', '.join(objects)}" for name, objects in foreign.items())
        log.warning(
            "Causal trace: the checkpoint %s can be gone on with until ComfyUI is restarted, not after: other packs' "
            "code is known as an object only (%s)",
            checkpoint.name,
            known,
        )
    return digests


def _score(vae: Vae, scorer: ImageScorer | None) -> Score:
    if scorer is None:
        return latent_distance

    def score(results: torch.Tensor, clean: torch.Tensor, prompt: str) -> torch.Tensor:
        return scorer(pictures_of(vae, results), prompt)

    return score


def _progress(model: Model) -> Callable[[int, int, torch.Tensor], None]:
    """ComfyUI's progress bar with a preview of the latest picture, and the time left, on the node and in the log."""
    bar = comfy.utils.ProgressBar(1)
    previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
    started = time.monotonic()

    def show(done: int, total: int, results: torch.Tensor) -> None:
        preview = None
        if previewer is not None:
            preview = previewer.decode_latent_to_preview_image("JPEG", results[-1:].to(model.load_device))
        bar.update_absolute(done, total, preview)
        took = time.monotonic() - started
        left = f"{duration(took / max(1, done) * (total - done))} left" if done < total else f"took {duration(took)}"
        say(f"{done} of {total} pictures, {left}")
        log.info("Causal trace: %d of %d pictures, %s", done, total, left)

    return show
