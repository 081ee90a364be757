"""What traces a shard, and how a worker in another process opens it: by name, since models are not sent around."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..demo_model.architecture import SHAPES_DIT, SHAPES_SD1, SHAPES_XL
from ..tracing.results.trace import CausalTrace
from .plan import SweepError, SweepPlan


class Tracer(Protocol):
    """A model with settings, which traces one prompt at a time."""

    @property
    def identity(self) -> Mapping[str, str]:
        """Content hashes of what was read, by what it is."""
        ...

    def trace(self, prompt: str, seeds: Sequence[int]) -> CausalTrace:
        """The trace of one prompt (subject in [brackets]): the same numbers for the same prompt and seed, whatever was
        traced before, and whatever other seeds are asked for."""
        ...


class Opener(Protocol):
    """Opens a tracer, in this process or another: it can be pickled, and equal openers open equal tracers."""

    @property
    def device(self) -> str:
        """Where it is computed, such as "cpu" or "cuda"."""
        ...

    def __call__(self) -> Tracer: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class PipelineOpener:
    """A folder as diffusers keeps pipelines, or a name that diffusers knows.

    Attributes:
        model: the folder.
        settings: of ``pipelines.tracing.TraceSettings``, and "dtype", as JSON.
        device: where it is computed.
    """

    model: str
    settings: str
    device: str = "cpu"

    def __call__(self) -> Tracer:
        from ..pipelines.tracing import TraceSettings, open_tracer

        settings = json.loads(self.settings)
        dtype = settings.pop("dtype", None)
        number = getattr(torch, dtype) if dtype else None
        return open_tracer(self.model, TraceSettings.of_dict(settings), device=self.device, dtype=number)

    @staticmethod
    def completed(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with defaults for what is not said."""
        from ..pipelines.tracing import TraceSettings

        given = dict(settings)
        dtype = given.pop("dtype", None)
        return {**TraceSettings.of_dict(given).as_dict(), **({"dtype": dtype} if dtype else {})}


# Of each miniature what makes its pipeline, and how it is painted where nothing else is said.
_MINIATURES: dict[str, tuple[str, dict[str, Any]]] = {
    SHAPES_SD1.name: ("shapes_pipeline", {"guidance": 5.0}),
    SHAPES_XL.name: ("shapes_xl_pipeline", {"guidance": 5.0}),
    SHAPES_DIT.name: ("shapes_dit_pipeline", {"true_guidance": 3.0, "max_sequence_length": SHAPES_DIT.length}),
}


@dataclass(frozen=True)
class MiniatureOpener:
    """A demo model of this repository, as a pipeline of diffusers' classes.

    Attributes:
        model: its name, of :data:`OPENERS`.
        settings: of ``pipelines.tracing.TraceSettings``, as JSON.
        device: where it is computed: the CPU.
    """

    model: str
    settings: str
    device: str = "cpu"

    def __call__(self) -> Tracer:
        from ..demo_model import diffusers_pipelines
        from ..pipelines.tracing import TraceSettings, open_tracer

        if self.device != "cpu":
            raise SweepError(f"{self.model} is traced on the CPU; got the device {self.device}.")
        pipe = getattr(diffusers_pipelines, _MINIATURES[self.model][0])()
        return open_tracer(pipe, TraceSettings.of_dict(json.loads(self.settings)))

    @staticmethod
    def completed(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with defaults for what is not said."""
        from ..pipelines.tracing import TraceSettings

        return TraceSettings.of_dict({**_MINIATURES[model][1], **settings}).as_dict()


OPENERS: dict[str, type[PipelineOpener] | type[MiniatureOpener]] = {
    "pipeline": PipelineOpener,
    **dict.fromkeys(_MINIATURES, MiniatureOpener),
}


def tracer_named(model: str) -> str:
    """Which of :data:`OPENERS` opens a model of this name or place."""
    return model if model in OPENERS and model != "pipeline" else "pipeline"


def opener_of(plan: SweepPlan, *, model: str | None = None, device: str = "cpu") -> Opener:
    """What opens a plan's tracer.

    Args:
        model: where the model lies here, if not where the plan says.

    Raises:
        SweepError: the plan's tracer is not known.
    """
    if plan.tracer not in OPENERS:
        raise SweepError(f"The sweep was traced by {plan.tracer!r}; this version knows {', '.join(OPENERS)}.")
    return OPENERS[plan.tracer](model or plan.model, json.dumps(plan.settings, sort_keys=True), device)


def new_plan(
    model: str,
    settings: Mapping[str, Any],
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    *,
    device: str = "cpu",
) -> SweepPlan:
    """The plan of a sweep of a model; it is opened once, for its identity.

    Raises:
        SweepError: nothing to trace, an unknown setting.
    """
    name = tracer_named(model)
    whole = OPENERS[name].completed(model, settings)
    if whole.get("columns") == "tokens":
        raise SweepError(
            "A sweep has the same columns for every prompt, and the tokens of prompts differ; expected columns=places."
        )
    plan = SweepPlan(name, model, whole, {}, tuple(prompts), tuple(map(tuple, seeds)))
    return dataclasses.replace(plan, identity=opened(opener_of(plan, device=device)).identity)


@functools.lru_cache(maxsize=1)
def opened(opener: Opener) -> Tracer:
    """The opener's tracer, kept in this process until another one is opened."""
    return opener()


def made_with(opener: Opener) -> dict[str, str]:
    """On what this process computes: other versions and devices may round otherwise."""
    device = opener.device
    if device.startswith("cuda") and torch.cuda.is_available():
        device = torch.cuda.get_device_name(device)
    return {"torch": torch.__version__.split("+")[0], "device": device}
