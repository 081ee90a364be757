"""The result of a causal trace: every score, and the effects computed from them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from .examples import Examples

FLOOR = 1e-3


# The scores of a trace, by the names of its fields.
TENSORS = ("clean", "corrupted", "restored", "control")


_AXES = ("token", "step")
# What traces share that are joined.
_SHARED = ("component", "sites", "columns", "column_axis", "draws", "score", "settings", "probe")

# What is done to a run at a site: a corrupted one is given the clean state, or a clean one reads the corrupted text.
PROBES = ("restore", "other text")


class TraceError(ValueError):
    """A trace that cannot be made, read, or written."""


@dataclass(frozen=True, eq=False)
class CausalTrace:
    """Scores of clean, corrupted and restored runs. Axes: prompt P, seed S, noise draw D, site L, column K.

    Attributes:
        component: "text" or "unet".
        sites: names of the restored sites, or windows of them.
        columns: labels of the second axis: tokens, places, or step windows.
        column_axis: "token" or "step".
        prompts: the prompts.
        subjects: the words that were corrupted in each.
        seeds: seeds of the initial noise.
        draws: number of noise draws.
        clean: (P, S).
        corrupted: (P, S, D).
        restored: (P, S, D, L, K); NaN where not measured.
        control: (P, S, D, C) restored scores of the null: random cells, restored from another corrupted run.
        score: what was measured, with its scale.
        settings: everything else that made the trace; JSON values.
        examples: which pictures were painted with it, if any.
        probe: one of :data:`PROBES`. With "other text" (LocoGen's), ``restored`` holds scores of clean runs whose site
            reads the corrupted text, and an effect is what that takes away.

    The scores are kept as CPU copies in fp32.

    Raises:
        TraceError: labels and scores do not fit together, or a score is infinite.
    """

    component: str
    sites: tuple[str, ...]
    columns: tuple[str, ...]
    column_axis: str
    prompts: tuple[str, ...]
    subjects: tuple[str, ...]
    seeds: tuple[int, ...]
    draws: int
    clean: torch.Tensor
    corrupted: torch.Tensor
    restored: torch.Tensor
    control: torch.Tensor
    score: str
    settings: dict[str, Any] = field(default_factory=dict)
    examples: Examples | None = None
    probe: str = PROBES[0]

    def __post_init__(self) -> None:
        if self.component not in ("text", "unet") or self.column_axis not in _AXES:
            raise TraceError(f"A trace is of text or unet, by token or step; got {self.component}, {self.column_axis}.")
        if self.probe not in PROBES:
            raise TraceError(f"A trace's probe is one of {', '.join(PROBES)}; got {self.probe!r}.")
        if len(self.subjects) != len(self.prompts):
            raise TraceError(f"{len(self.prompts)} prompts have {len(self.subjects)} subjects; expected one for each.")
        # ComfyUI runs nodes in inference mode and caches their results; such tensors would stay unusable for autograd.
        with torch.inference_mode(False):
            for name in TENSORS:
                scores = getattr(self, name).detach().to("cpu", torch.float32, copy=True).contiguous()
                object.__setattr__(self, name, scores)
        units = (len(self.prompts), len(self.seeds))
        wanted = {
            "clean": units,
            "corrupted": (*units, self.draws),
            "restored": (*units, self.draws, len(self.sites), len(self.columns)),
        }
        if 0 in wanted["restored"]:
            raise TraceError(f"A trace has at least one entry on each axis; got {wanted['restored']}.")
        for name, shape in wanted.items():
            if tuple(getattr(self, name).shape) != shape:
                raise TraceError(f"{name} has shape {tuple(getattr(self, name).shape)}; the labels say {shape}.")
        self._check_scores(wanted["corrupted"])

    def _check_scores(self, runs: tuple[int, ...]) -> None:
        """Refuse controls of other runs than ``runs`` (P, S, D), infinite scores, and examples of no cell."""
        if self.control.ndim != 4 or tuple(self.control.shape[:3]) != runs:
            found, axes = tuple(self.control.shape), runs
            raise TraceError(f"control has shape {found}; expected {axes} and one axis more.")
        for name in TENSORS:
            if getattr(self, name).isinf().any():
                raise TraceError(f"{name} holds infinite scores; expected numbers, or NaN where nothing was measured.")
        cells = self.examples.cells if self.examples else ()
        if any(row >= len(self.sites) or column >= len(self.columns) for row, column in cells):
            raise TraceError("The examples show a cell that is not in the trace.")

    @classmethod
    def joined(cls, traces: Iterable[CausalTrace]) -> CausalTrace:
        """One trace of the prompts and seeds of several, in the order in which they come; without examples.

        Every prompt (with its subject) meets every seed in exactly one of the traces.

        Raises:
            TraceError: no trace; traces of different things; a prompt and seed that are in two of them, or in none.
        """
        traces = tuple(traces)
        if not traces:
            raise TraceError("There is no trace to join; expected at least one.")
        first = traces[0]
        for trace in traces[1:]:
            first._check_joins(trace)
        named = [tuple(zip(trace.prompts, trace.subjects, strict=True)) for trace in traces]
        prompts = {name: row for row, name in enumerate(dict.fromkeys(itertools.chain(*named)))}
        seeds = {seed: row for row, seed in enumerate(dict.fromkeys(s for trace in traces for s in trace.seeds))}
        filled = torch.zeros(len(prompts), len(seeds), dtype=torch.int64)
        scores = {name: torch.full((*filled.shape, *getattr(first, name).shape[2:]), torch.nan) for name in TENSORS}
        for trace, names in zip(traces, named, strict=True):
            places = (
                torch.tensor([prompts[name] for name in names])[:, None],
                torch.tensor([seeds[s] for s in trace.seeds]),
            )
            filled.index_put_(places, torch.ones((), dtype=torch.int64), accumulate=True)
            for name, held in scores.items():
                held[places] = getattr(trace, name)
        cls._check_filled(filled, tuple(prompts), tuple(seeds))
        texts, subjects = zip(*prompts, strict=True)
        fields: dict[str, Any] = {name: getattr(first, name) for name in _SHARED} | scores
        return cls(**fields, prompts=texts, subjects=subjects, seeds=tuple(seeds))

    def _check_joins(self, other: CausalTrace) -> None:
        """Refuse a trace of something else."""
        differing = [name.replace("_", " ") for name in _SHARED if getattr(self, name) != getattr(other, name)]
        if "settings" in differing:
            keys = {**self.settings, **other.settings}
            differing += [f"settings: {key}" for key in keys if self.settings.get(key) != other.settings.get(key)]
            differing.remove("settings")
        if self.control.shape[-1] != other.control.shape[-1]:
            differing.append("controls")
        if differing:
            raise TraceError(
                f"The trace of {other.prompts[0]!r} has other {', '.join(differing)} than that of {self.prompts[0]!r}; "
                "only traces of the same thing are joined."
            )

    @staticmethod
    def _check_filled(filled: torch.Tensor, prompts: tuple[tuple[str, str], ...], seeds: tuple[int, ...]) -> None:
        """Refuse runs (P, S) that come twice, or not at all."""
        for wrong, said in ((filled > 1, "in two of the traces; expected in one"), (filled == 0, "in no trace")):
            if wrong.any():
                row, column = wrong.nonzero()[0].tolist()
                raise TraceError(f"The prompt {prompts[row][0]!r} with seed {seeds[column]} is {said}.")

    def indirect_effects(self) -> torch.Tensor:
        """score(restored) - score(corrupted), signed, (P, S, D, L, K); of the probe "other text" score(clean) -
        score(probed)."""
        if self.probe != PROBES[0]:
            return self.clean[..., None, None, None] - self.restored
        return self.restored - self.corrupted[..., None, None]

    def control_effects(self) -> torch.Tensor:
        """Indirect effects of the null, (P, S, D, C)."""
        if self.probe != PROBES[0]:
            return self.clean[..., None, None] - self.control
        return self.control - self.corrupted[..., None]

    def total_effects(self) -> torch.Tensor:
        """score(clean) - score(corrupted), (P, S, D)."""
        return self.clean[..., None] - self.corrupted

    def average_indirect_effect(self) -> torch.Tensor:
        """Mean indirect effect over prompts, seeds and draws, (L, K); NaN where nothing was measured."""
        return self.indirect_effects().nanmean((0, 1, 2))

    def recovery(self, floor: float = FLOOR) -> torch.Tensor:
        """Mean indirect effect over mean total effect of the same runs, (L, K).

        Args:
            floor: in units of the score. Runs whose total effect is not above it are left out: where corruption
                changes nothing there is nothing to recover.

        Returns:
            1 where restoring brings everything back, 0 where nothing; NaN where no run is left.
        """
        total = self.total_effects()
        kept = total.abs() > floor
        effects = torch.where(kept[..., None, None], self.indirect_effects(), torch.nan).nanmean((0, 1, 2))
        measured = kept[..., None, None] & self.restored.isfinite()
        return effects / torch.where(measured, total[..., None, None], torch.nan).nanmean((0, 1, 2))
