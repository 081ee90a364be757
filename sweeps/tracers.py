"""What traces a shard, and how a worker in another process opens it: by name, since models are not sent around."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

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
    def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with defaults for what is not said."""
        from ..pipelines.tracing import TraceSettings

        given = dict(settings)
        dtype = given.pop("dtype", None)
        return {**TraceSettings.of_dict(given).as_dict(), **({"dtype": dtype} if dtype else {})}


@dataclass(frozen=True)
class ShapesOpener:
    """Shapes, the demo model of this repository.

    Attributes:
        model: its name.
        settings: of ``demo_model.tracer.ShapesSettings``, as JSON.
        device: where it is computed: the CPU.
    """

    model: str
    settings: str
    device: str = "cpu"

    def __call__(self) -> Tracer:
        from ..demo_model.tracer import ShapesSettings, ShapesTracer

        if self.device != "cpu":
            raise SweepError(f"Shapes is traced on the CPU; got the device {self.device}.")
        return ShapesTracer(ShapesSettings(**json.loads(self.settings)))

    @staticmethod
    def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
        """The settings with defaults for what is not said."""
        from ..demo_model.tracer import ShapesSettings

        names = {field.name for field in dataclasses.fields(ShapesSettings)}
        if unknown := sorted(settings.keys() - names):
            raise SweepError(f"Shapes has no setting {unknown[0]!r}; it has {', '.join(sorted(names))}.")
        return dataclasses.asdict(ShapesSettings(**settings))


OPENERS: dict[str, type[PipelineOpener] | type[ShapesOpener]] = {"pipeline": PipelineOpener, "Shapes": ShapesOpener}


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
    whole = OPENERS[name].completed(settings)
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
