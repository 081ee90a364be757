"""Rows of one prompt painted side by side by a pipeline's own call, with copies between them on the way."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ...families.sites import Site
from ...tracing.runs.interventions import InterventionError, Patch, patching
from .kinds import PipelineKind, rows_of
from .settings import TraceSettings


@dataclass(frozen=True)
class PipelinePainter:
    """A painter of ``tracing.runs.lockstep``: the pipeline's own call, from the seed's one noise in every row.

    The call is made on a shallow copy with a scheduler of its own, so that the user's pipeline keeps its state.

    Attributes:
        sites: of the image model.
        negative: what the image model is given of the negative prompt, one row; empty without guidance.
        columns: how many steps of the scheduler a trace of the image model counts; None: any.
    """

    pipe: Any = field(repr=False)
    kind: PipelineKind
    settings: TraceSettings
    sites: tuple[Site, ...] = field(repr=False)
    negative: Mapping[str, torch.Tensor] = field(repr=False)
    columns: int | None = None

    @cached_property
    def _own(self) -> Any:
        own = copy.copy(self.pipe)
        own.scheduler = copy.deepcopy(self.pipe.scheduler)
        own.set_progress_bar_config(disable=True)
        return own

    def __call__(self, states: Mapping[str, torch.Tensor], seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        """What the image model is given of each row to final latents (rows, channels, height, width), on the scale on
        which the autoencoder decodes them.

        Raises:
            InterventionError: the pipeline does not run its image model as is expected; see :func:`patching`.
        """
        rows = len(states["prompt_embeds"])
        own, watch = self._own, _Passes(rows, bool(self.negative), self.kind.passes, self.settings.branch == "both")
        noise = self.kind.noise(own, seed, self.settings).expand(rows, -1, -1, -1)
        latents = self.kind.packed(own, noise).to(own._execution_device, states["prompt_embeds"].dtype)
        model = getattr(own, self.kind.part)
        handle = model.register_forward_pre_hook(watch.before, with_kwargs=True)
        try:
            with patching({site.name: site for site in self.sites}, patches, index=watch.index, step=watch.now):
                found = own(
                    **states,
                    **rows_of(self.negative, rows),
                    **self.kind.arguments(self.settings),
                    latents=latents.contiguous(),
                    output_type="latent",
                    return_dict=False,
                    callback_on_step_end=watch.after,
                )[0]
        finally:
            handle.remove()
            # Offloading hangs new hooks on the modules with every call; the pipeline is to know them.
            if hasattr(own, "_all_hooks"):
                self.pipe._all_hooks = own._all_hooks
        if self.columns not in (None, watch.step):
            raise InterventionError(
                f"The scheduler made {watch.step} steps; its timesteps said {self.columns}. Its steps cannot be traced "
                "apart; set step_windows to 1."
            )
        return self.decodable(self.kind.unpacked(own, found, self.settings))

    def decodable(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents of the image model as the autoencoder takes them; without an autoencoder, as they are."""
        config = getattr(getattr(self.pipe, "vae", None), "config", None)
        if config is None:
            return latents
        mean, std = (getattr(config, f"latents_{name}", None) for name in ("mean", "std"))
        scaled = latents.float() / float(getattr(config, "scaling_factor", 1.0) or 1.0)
        if mean is not None and std is not None:
            one = [torch.tensor(value, device=latents.device).view(1, -1, 1, 1) for value in (mean, std)]
            return scaled * one[1] + one[0]
        return scaled + float(getattr(config, "shift_factor", None) or 0.0)


class _Passes:
    """Which step runs, and where a row stands in the batch of the pass that runs.

    Args:
        guided: there is a negative prompt.
        apart: it has a pass of its own, behind the prompt's; else its rows stand before the prompt's.
        both: rows are copied in the negative prompt's half too.
    """

    def __init__(self, rows: int, guided: bool, apart: bool, both: bool) -> None:
        self._rows, self._both, self._apart = rows, both, apart and guided
        self._halves = 2 if guided and not apart else 1
        self._pass, self.step = 0, 0

    def before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        self._pass += 1
        if not isinstance(given, torch.Tensor) or len(given) != self._rows * self._halves:
            found = len(given) if isinstance(given, torch.Tensor) else type(given).__name__
            raise InterventionError(
                f"The pipeline gave its image model {found} rows; expected {self._rows * self._halves}. It cannot be "
                "traced."
            )
        if self._pass > 1 + self._apart:
            raise InterventionError("The pipeline runs its image model more often than is known; it cannot be traced.")

    def index(self, row: int) -> Sequence[int]:
        if self._apart:
            return (row,) if self._both or self._pass == 1 else ()
        if self._halves == 1:
            return (row,)
        return (row, self._rows + row) if self._both else (self._rows + row,)

    def now(self) -> int:
        return self.step

    def after(self, pipe: Any, step: int, time: Any, given: dict[str, Any]) -> dict[str, Any]:
        self.step, self._pass = step + 1, 0
        return {}
