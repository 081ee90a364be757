"""All experiments on one model, in a folder: what is finished there is not measured again."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..output.files import whole_file
from ..output.json_records import to_json
from ..pipelines.tracing import PipelineTracer, TraceSettings
from ..sweeps.plan import SweepError, SweepPlan, seed_blocks
from ..sweeps.run import SweepProgress, run_sweep
from ..sweeps.scores import SweepScores, sweep_scores
from ..sweeps.store import SweepFolder
from ..sweeps.tracers import OPENERS, Tracer, opened, opener_of, tracer_named
from ..tracing.results.locate import best_cell
from .edits import Painter, measure_edits
from .plan import CONTROLS, Experiments, Size, Traced, experiments_for, traced_settings
from .prompts import ATTRIBUTES, prompts_for
from .report import Reproduced, reproduced_page
from .verdicts import verdicts_of

PUBLISHED_STEPS, QUICK_STEPS, PUBLISHED_GUIDANCE = 50, 10, 7.5
_TIMED_STEPS = 2
Told = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Asked:
    """What a reproduction is asked for.

    Attributes:
        model: a folder of diffusers, or a miniature's name.
        size: how much is measured.
        steps: sampling steps.
        score: "latent", or "clip:FOLDER".
        device: where it is computed.
        dtype: of a folder's weights; None: as it has them.
        side: of the pictures, in pixels; None: the pipeline's own.
        attributes: which are traced.
    """

    model: str
    size: Size
    steps: int
    score: str = "latent"
    device: str = "cpu"
    dtype: str | None = None
    side: int | None = None
    attributes: tuple[str, ...] = ATTRIBUTES


@dataclass(frozen=True, eq=False)
class _Opened:
    """A tracer of a pipeline that is open already, for the sweeps of this process."""

    tracer: PipelineTracer
    device: str

    def __call__(self) -> Tracer:
        return self.tracer


class Reproduction:
    """The experiments of one model, ready to run.

    Attributes:
        experiments: what is done and skipped.
    """

    experiments: Experiments

    def __init__(self, asked: Asked) -> None:
        """
        Raises:
            PipelineError, SweepError, ScorerError: the model cannot be opened or traced.
        """
        self.asked, self._name = asked, tracer_named(asked.model)
        given: dict[str, Any] = {"steps": asked.steps, "score": asked.score, "controls": CONTROLS}
        given |= {name: asked.side for name in ("height", "width") if asked.side}
        given |= {"dtype": asked.dtype} if asked.dtype else {}
        self._common = OPENERS[self._name].completed(asked.model, given)
        plan = SweepPlan(self._name, asked.model, self._common, {}, ("a [b]",), ((0,),))
        first = opened(opener_of(plan, device=asked.device))
        if not isinstance(first, PipelineTracer):
            raise SweepError(f"{asked.model} is opened by {type(first).__name__}; expected a pipeline.")
        self._first = first
        if type(first.pipe).__name__ == "StableDiffusionPipeline" and self._name == "pipeline":
            self._common["guidance"] = PUBLISHED_GUIDANCE
        tracers = {component: self._tracer({"component": component}) for component in ("text", "image")}
        self._painter = Painter(tracers["text"], asked.size.seeds, dict(tracers["text"].identity))
        self.experiments = experiments_for(tracers, prompts_for(asked.model), asked.size, asked.attributes)

    def _tracer(self, settings: dict[str, Any]) -> PipelineTracer:
        values = {name: value for name, value in {**self._common, **settings}.items() if name != "dtype"}
        return self._first.with_settings(TraceSettings.of_dict(values))

    def seconds(self) -> float:
        """About how long all of it takes, by one timed picture of few steps; several at once are faster on a GPU."""
        few = min(_TIMED_STEPS, self.asked.steps)
        tracer = self._tracer({"steps": few})
        text = "a photo of a house"
        self._paint(self._tracer({"steps": 1}), text)
        started = time.monotonic()
        self._paint(tracer, text)
        return (time.monotonic() - started) * self.asked.steps / few * self.experiments.pictures

    def _paint(self, tracer: PipelineTracer, prompt: str) -> None:
        latents = tracer.paint([prompt], 0)
        if tracer.scorer is not None:
            float(tracer.scorer(tracer.pictures(latents), prompt))
        if latents.is_cuda:
            torch.cuda.synchronize(latents.device)

    def run(self, out: Path, told: Told | None = None) -> Reproduced:
        """Do what is not finished in the folder, and write ``report.html`` and ``result.json`` there.

        Raises:
            SweepError: the folder holds another model's or other settings' results, or a prompt could not be traced.
        """
        out.mkdir(parents=True, exist_ok=True)
        scores: dict[tuple[str, str], SweepScores] = {}
        for one in self.experiments.traced:
            scores[one.component, one.attribute] = self._swept(out, one, told)
        edits = measure_edits(self._painter, self.experiments.edited, out / "edits", _named(told, "edits"))
        found = Reproduced(
            self.asked.model,
            scores,
            edits,
            verdicts_of(scores, edits),
            self.experiments.skipped,
            {**self._common, **{f"size: {name}": value for name, value in dataclasses.asdict(self.asked.size).items()}},
            self._painter.identity,
            __version__,
        )
        for name, text in (("report.html", reproduced_page(found)), ("result.json", _as_json(found))):
            with whole_file(out / name, overwrite=True) as part:
                part.write_text(text, encoding="utf-8")
        return found

    def _swept(self, out: Path, one: Traced, told: Told | None) -> SweepScores:
        settings = traced_settings(one, self._common)
        tracer = self._tracer({name: settings[name] for name in ("component", "sites", "controls")})
        blocks = seed_blocks(self.asked.size.seeds, 1)
        plan = SweepPlan(self._name, self.asked.model, settings, dict(tracer.identity), one.prompts, blocks)
        folder = SweepFolder.make(out / one.name, plan)
        if folder.plan.prompts != plan.prompts or folder.plan.seeds != plan.seeds:
            raise SweepError(f"{out / one.name} holds other prompts or seeds too; name another folder.")

        def tell(now: SweepProgress) -> None:
            if told is not None:
                told(one.name, now.done, now.total)

        end = run_sweep(folder, opener=_Opened(tracer, self.asked.device), progress=tell)
        if end.failed:
            raise SweepError(f"{one.name}: {len(end.failed)} shards could not be traced. The first: {end.failed[0][1]}")
        return sweep_scores(folder)


def _named(told: Told | None, name: str) -> Callable[[int, int], None] | None:
    if told is None:
        return None

    def tell(done: int, total: int) -> None:
        told(name, done, total)

    return tell


def _as_json(found: Reproduced) -> str:
    traces = [
        {
            "component": component,
            "attribute": attribute,
            "prompts": len(one.trace.prompts),
            "total_effect": one.total,
            "strongest": to_json(best_cell(one.trace, judgement=one.judgement)),
        }
        for (component, attribute), one in found.scores.items()
    ]
    whole = {
        "model": found.model,
        "version": found.version,
        "settings": dict(found.settings),
        "identity": dict(found.identity),
        "verdicts": to_json(found.verdicts),
        "traces": traces,
        "edits": to_json(found.edits),
        "skipped": list(found.skipped),
    }
    return json.dumps(_finite(whole), indent=1, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    """JSON has no NaN: None stands for what is not known."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return [_finite(entry) for entry in value] if isinstance(value, list | tuple) else value
