"""The folder of a sweep: ``plan.json``, and under ``shards/`` one trace file a shard, written whole or not at all.

A shard is finished when its file is there, loads, agrees with its own checksum and was made by this plan. So workers
may be killed at any time, several may work in one folder, and nothing else has to be kept about what was done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..output.files import whole_file
from ..tracing.results.trace import TENSORS, CausalTrace, TraceError
from ..tracing.results.trace_file import load_trace, save_trace
from .plan import Shard, SweepError, SweepPlan

# The key of a shard's settings under which it says what made it.
MADE = "sweep"
# A file that is being written takes far less; an older one was left behind by a worker that was killed.
STALE_S = 3600.0


@dataclass(frozen=True)
class Damage:
    """A shard's file that does not count, and why."""

    shard: Shard
    reason: str


@dataclass(frozen=True)
class SweepFolder:
    """A sweep on disk.

    Attributes:
        path: the folder.
        plan: what it traces.
    """

    path: Path
    plan: SweepPlan

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """The sweep in a folder.

        Raises:
            SweepError: there is none, or its plan cannot be read.
        """
        path = Path(path)
        file = path / "plan.json"
        if not file.is_file():
            raise SweepError(f"There is no sweep in {path}; expected a folder with plan.json.")
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SweepError(f"{file} cannot be read: {error}") from error
        return cls(path, SweepPlan.parsed(text, str(file)))

    @classmethod
    def make(cls, path: Path, plan: SweepPlan) -> SweepFolder:
        """A new sweep, or the one that is there with the plan's further prompts and seeds.

        Raises:
            SweepError: the sweep that is there was made with other settings, or the folder cannot be written.
        """
        path = Path(path)
        if (path / "plan.json").exists():
            there = cls.open(path).plan
            there.require_same(plan, str(path))
            plan = dataclasses.replace(there.extended(plan.prompts, plan.seeds), model=plan.model)
        try:
            (path / "shards").mkdir(parents=True, exist_ok=True)
            with whole_file(path / "plan.json", overwrite=True) as part:
                part.write_text(plan.text(), encoding="utf-8")
        except OSError as error:
            raise SweepError(
                f"Cannot write to {path} ({error}). Is there room left, and may you write there?"
            ) from error
        return cls(path, plan)

    def file(self, shard: Shard) -> Path:
        """Where a shard's trace lies, or will lie."""
        return self.path / "shards" / shard.name

    def has(self, shard: Shard) -> bool:
        """Whether a shard is finished."""
        if not self.file(shard).exists():
            return False
        try:
            self.read(shard)
        except SweepError:
            return False
        return True

    def read(self, shard: Shard) -> CausalTrace:
        """A finished shard's trace, with what made it under :data:`MADE` in its settings.

        Raises:
            SweepError: it is not there, damaged, or of another plan.
        """
        try:
            trace = load_trace(self.file(shard))
        except TraceError as error:
            raise SweepError(str(error)) from error
        made = trace.settings.get(MADE)
        name = shard.name
        if not isinstance(made, dict) or made.get("checksum") != _checksum(trace):
            raise SweepError(f"{name} is damaged: its checksum does not agree with its scores.")
        if made.get("plan") != self.plan.hash:
            raise SweepError(f"{name} was made by another plan.")
        if made.get("prompt") != shard.prompt or trace.seeds != shard.seeds:
            raise SweepError(f"{name} holds another prompt or other seeds than its name says.")
        return trace

    def write(self, shard: Shard, trace: CausalTrace, made_with: Mapping[str, str]) -> None:
        """Keep a shard's trace; equal traces give equal bytes.

        Args:
            made_with: on what it was computed; JSON values.

        Raises:
            SweepError: the trace is not of this shard, or holds no scores.
            TraceError: the file cannot be written; none is left.
        """
        if len(trace.prompts) != 1 or trace.seeds != shard.seeds:
            raise SweepError(
                f"The tracer gave {len(trace.prompts)} prompts with the seeds {list(trace.seeds)}; expected one prompt "
                f"with {list(shard.seeds)}."
            )
        if not (trace.clean.isfinite().all() and trace.corrupted.isfinite().all()):
            raise SweepError("The tracer gave scores that are no numbers; such a shard would not be finished.")
        made = {"plan": self.plan.hash, "prompt": shard.prompt, "made with": dict(made_with)}
        trace = dataclasses.replace(trace, settings={**trace.settings, MADE: made}, examples=None)
        made = {**made, "checksum": _checksum(trace)}
        save_trace(
            dataclasses.replace(trace, settings={**trace.settings, MADE: made}), self.file(shard), overwrite=True
        )

    def sorted_out(self, shards: Iterable[Shard] | None = None) -> tuple[list[Shard], list[Shard], list[Damage]]:
        """Shards (default: all) that are finished, that are still to do, and of the latter those with a bad file."""
        finished, missing, damaged = [], [], []
        there = {entry.name for entry in (self.path / "shards").glob("*.trace.safetensors")}
        for shard in self.plan.shards() if shards is None else shards:
            if shard.name not in there:
                missing.append(shard)
                continue
            try:
                self.read(shard)
            except SweepError as error:
                damaged.append(Damage(shard, str(error)))
                missing.append(shard)
            else:
                finished.append(shard)
        return finished, missing, damaged

    def traces(self, shards: Iterable[Shard]) -> Iterator[CausalTrace]:
        """The traces of finished shards, one after the other, as their tracer gave them."""
        for shard in shards:
            trace = self.read(shard)
            yield dataclasses.replace(trace, settings=without_made(trace.settings))

    def clean(self, older_than: float = STALE_S, shards: Collection[Shard] | None = None) -> int:
        """Delete what killed workers left half-written; returns how many files.

        Args:
            older_than: in seconds; younger ones may be in use.
            shards: of these alone.
        """
        names, count, now = None if shards is None else {shard.name for shard in shards}, 0, time.time()
        for folder in (self.path, self.path / "shards"):
            for part in folder.glob("*.part"):
                with contextlib.suppress(OSError):
                    of_these = names is None or part.name.rsplit(".", 2)[0] in names
                    if of_these and now - part.stat().st_mtime >= older_than:
                        part.unlink()
                        count += 1
        return count

    def merge(self, other: SweepFolder) -> SweepFolder:
        """Take in the finished shards of another folder of the same plan; the other stays as it is.

        Raises:
            SweepError: the plans are of different things, or the folder cannot be written.
        """
        whole = SweepFolder.make(self.path, self.plan.merged(other.plan))
        for shard in other.sorted_out()[0]:
            if not whole.has(shard):
                try:
                    with whole_file(whole.file(shard), overwrite=True) as part:
                        shutil.copyfile(other.file(shard), part)
                except OSError as error:
                    raise SweepError(f"Cannot write to {self.path} ({error}). Is there room left?") from error
        return whole


def without_made(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as the tracer gave them."""
    return {key: value for key, value in settings.items() if key != MADE}


def _checksum(trace: CausalTrace) -> str:
    """SHA-256 of a trace's scores and labels, without the checksum that it may hold."""
    made = {key: value for key, value in trace.settings[MADE].items() if key != "checksum"}
    labels = [
        trace.component,
        trace.sites,
        trace.columns,
        trace.column_axis,
        trace.prompts,
        trace.subjects,
        trace.seeds,
        trace.draws,
        trace.score,
        trace.probe,
        {**trace.settings, MADE: made},
    ]
    found = hashlib.sha256(json.dumps(labels, sort_keys=True).encode())
    for name in TENSORS:
        scores: torch.Tensor = getattr(trace, name)
        found.update(f"{name} {tuple(scores.shape)}".encode())
        found.update(scores.numpy().tobytes())
    return found.hexdigest()
