"""The result of a causal trace: every score, what is computed from them, and its file."""

from __future__ import annotations

import csv
import io
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import whole_file
from .examples import Examples

SCHEMA = 1
FLOOR = 1e-3
_LABELS = (
    "component",
    "sites",
    "columns",
    "column_axis",
    "prompts",
    "subjects",
    "seeds",
    "draws",
    "score",
    "settings",
)
_TENSORS = ("clean", "corrupted", "restored", "control")
_AXES = ("token", "step")
# Full-width forms too: some spreadsheets take them for the plain ones.
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_LARGEST_HEADER = 10_000_000


class TraceError(ValueError):
    """A trace that cannot be made, read, or written."""


@dataclass(frozen=True)
class BestCell:
    """The cell with the largest average indirect effect.

    Attributes:
        site, column: its labels.
        effect: its average indirect effect, in units of the score.
        low, high: bootstrap interval of the effect; NaN with one independent unit only.
        beats_control: whether the null does not explain it (see :func:`~.statistics.beats_control`).
    """

    site: str
    column: str
    effect: float
    low: float
    high: float
    beats_control: bool


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

    def __post_init__(self) -> None:
        if self.component not in ("text", "unet") or self.column_axis not in _AXES:
            raise TraceError(f"A trace is of text or unet, by token or step; got {self.component}, {self.column_axis}.")
        if len(self.subjects) != len(self.prompts):
            raise TraceError(f"{len(self.prompts)} prompts have {len(self.subjects)} subjects; expected one for each.")
        # ComfyUI runs nodes in inference mode and caches their results; such tensors would stay unusable for autograd.
        with torch.inference_mode(False):
            for name in _TENSORS:
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
        if self.control.ndim != 4 or tuple(self.control.shape[:3]) != wanted["corrupted"]:
            found, axes = tuple(self.control.shape), wanted["corrupted"]
            raise TraceError(f"control has shape {found}; expected {axes} and one axis more.")
        for name in _TENSORS:
            if getattr(self, name).isinf().any():
                raise TraceError(f"{name} holds infinite scores; expected numbers, or NaN where nothing was measured.")
        cells = self.examples.cells if self.examples else ()
        if any(row >= len(self.sites) or column >= len(self.columns) for row, column in cells):
            raise TraceError("The examples show a cell that is not in the trace.")

    def indirect_effects(self) -> torch.Tensor:
        """score(restored) - score(corrupted), signed, (P, S, D, L, K)."""
        return self.restored - self.corrupted[..., None, None]

    def control_effects(self) -> torch.Tensor:
        """Indirect effects of the null, (P, S, D, C)."""
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

    def best(self, *, level: float = 0.95) -> BestCell:
        """The cell with the largest average indirect effect, its interval, and whether it beats the control.

        Raises:
            TraceError: nothing was measured yet.
        """
        from .statistics import beats_control, confidence_interval

        effects = self.average_indirect_effect()
        if not effects.isfinite().any():
            raise TraceError("The trace holds no finished cell yet; let it run on.")
        row, column = divmod(int(effects.nan_to_num(-torch.inf).argmax()), len(self.columns))
        low, high = confidence_interval(self, level=level)
        return BestCell(
            self.sites[row],
            self.columns[column],
            float(effects[row, column]),
            float(low[row, column]),
            float(high[row, column]),
            bool(beats_control(self, level=level)[row, column]),
        )

    # --- files -------------------------------------------------------------------------------------------------------

    def save(self, path: Path, *, overwrite: bool = False) -> None:
        """Write a safetensors file: the scores as tensors, all else as JSON in its metadata.

        The file appears whole or not at all.

        Raises:
            TraceError: there is a file of this name already, and ``overwrite`` is not set; the settings are no JSON
                values; the file cannot be written.
        """
        path = Path(path)
        try:
            labels = {"schema": SCHEMA, **{name: getattr(self, name) for name in _LABELS}}
            text = json.dumps({**labels, "examples": self.examples.labels()} if self.examples else labels)
        except (TypeError, ValueError, RecursionError) as error:
            raise TraceError(f"The trace's labels and settings are no JSON values: {error}. Use plain ones.") from error
        if len(text) > _LARGEST_HEADER:
            raise TraceError(f"The trace's labels take {len(text)} characters; a file holds {_LARGEST_HEADER}.")
        try:
            tensors = {name: getattr(self, name) for name in _TENSORS}
            with whole_file(path, overwrite=overwrite) as part:
                save_file(tensors, part, {"format": "pt", "causal_trace": text})
        except FileExistsError as error:
            raise TraceError(str(error)) from None
        except (SafetensorError, OSError) as error:
            raise TraceError(f"Cannot write {path.name} ({error}). Is there such a folder, with room left?") from error

    @classmethod
    def load(cls, path: Path) -> CausalTrace:
        """Read a trace file; it may come from a stranger, so everything is checked.

        Raises:
            TraceError: there is no such file, it is damaged, no trace, or of a newer version.
        """
        path = Path(path)
        if not path.is_file():
            raise TraceError(f"There is no trace file {path.name}.")
        try:
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get("causal_trace")
                held = [name for name in _TENSORS if name in file.keys()]  # noqa: SIM118
                types = {name: file.get_slice(name).get_dtype() for name in held}
                tensors = {name: file.get_tensor(name) for name in held if types[name] == "F32"}
        except (SafetensorError, OSError, RuntimeError, ValueError) as error:
            raise TraceError(f"{path.name} is damaged or no safetensors file ({error}). Take another copy.") from error
        if text is None or len(text) > _LARGEST_HEADER:
            raise TraceError(f"{path.name} is a safetensors file, but not a causal trace. Choose one saved as a trace.")
        for name, kind in types.items():
            if kind != "F32":
                raise TraceError(f"{path.name} holds {name} as {kind}; expected float32 scores. Take another copy.")
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path.name} has damaged metadata ({error}). Take another copy.") from error
        return _from_labels(labels, tensors, path.name)

    def to_csv(self) -> str:
        """Every score as a table, one row for each restored run.

        Text that a spreadsheet would take for a formula is given a leading apostrophe.
        """
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(
            (
                "prompt",
                "subject",
                "seed",
                "draw",
                "site",
                self.column_axis,
                "clean",
                "corrupted",
                "restored",
                "indirect_effect",
                "total_effect",
            )
        )
        prompts, subjects, sites, columns = (
            [_plain(text) for text in texts] for texts in (self.prompts, self.subjects, self.sites, self.columns)
        )
        clean, corrupted, total = self.clean.tolist(), self.corrupted.tolist(), self.total_effects().tolist()
        scores = zip(self.restored.flatten().tolist(), self.indirect_effects().flatten().tolist(), strict=True)
        cells = itertools.product(*(range(count) for count in self.restored.shape))
        for (p, s, d, row, column), (restored, effect) in zip(cells, scores, strict=True):
            writer.writerow(
                (
                    prompts[p],
                    subjects[p],
                    self.seeds[s],
                    d,
                    sites[row],
                    columns[column],
                    clean[p][s],
                    corrupted[p][s][d],
                    restored,
                    effect,
                    total[p][s][d],
                )
            )
        return out.getvalue()


def _plain(text: str) -> str:
    text = text.encode("utf-8", "replace").decode("utf-8")
    return f"'{text}" if text.startswith(_FORMULA) else text


def _from_labels(labels: Any, tensors: dict[str, torch.Tensor], name: str) -> CausalTrace:
    if not isinstance(labels, dict) or type(labels.get("schema")) is not int or labels["schema"] < 1:
        raise TraceError(f"{name} has damaged metadata: no format number. Take another copy.")
    if labels["schema"] > SCHEMA:
        raise TraceError(
            f"{name} was written by a newer version of this pack (format {labels['schema']}, this one reads {SCHEMA}). "
            "Update the pack."
        )
    missing = [tensor for tensor in _TENSORS if tensor not in tensors]
    if missing:
        raise TraceError(f"{name} lacks the scores {', '.join(missing)}. Take another copy.")
    fields: dict[str, Any] = {
        key: _strings(labels.get(key), key, name) for key in ("sites", "columns", "prompts", "subjects")
    }
    plain = {key: labels.get(key) for key in ("component", "column_axis", "score")}
    fields |= plain | tensors
    seeds, draws, settings = labels.get("seeds"), labels.get("draws"), labels.get("settings")
    if (
        not all(isinstance(value, str) for value in plain.values())
        or not isinstance(seeds, list)
        or not all(type(seed) is int for seed in seeds)
        or type(draws) is not int
        or not isinstance(settings, dict)
    ):
        raise TraceError(f"{name} has damaged metadata: a label is missing or of another type. Take another copy.")
    try:
        examples = None if labels.get("examples") is None else Examples.from_labels(labels["examples"])
        return CausalTrace(**fields, seeds=tuple(seeds), draws=draws, settings=settings, examples=examples)
    except ValueError as error:
        raise TraceError(f"{name} is damaged: {error}") from error


def _strings(value: Any, key: str, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise TraceError(f"{name} has damaged metadata: {key} is not a list of texts.")
    return tuple(value)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The difference of two traces where they share sites and columns; (L, K)."""

    sites: tuple[str, ...]
    columns: tuple[str, ...]
    difference: torch.Tensor


def compare(one: CausalTrace, other: CausalTrace) -> Comparison:
    """Average indirect effect of one trace minus another's, on their common cells.

    Raises:
        TraceError: they share no cell, or measured different scores.
    """
    if one.score != other.score:
        raise TraceError(f"The traces measured different things: {one.score!r} and {other.score!r}.")
    sites = tuple(site for site in dict.fromkeys(one.sites) if site in other.sites)
    columns = tuple(column for column in dict.fromkeys(one.columns) if column in other.columns)
    if not sites or not columns:
        raise TraceError("The two traces share no site and column; there is nothing to compare.")

    def shared(trace: CausalTrace) -> torch.Tensor:
        rows = [trace.sites.index(site) for site in sites]
        return trace.average_indirect_effect()[rows][:, [trace.columns.index(column) for column in columns]]

    return Comparison(sites, columns, shared(one) - shared(other))
