"""The sweep: clean, corrupted and restored runs of every prompt, seed, noise draw, site and column, in shared batches.

The published scheme runs a batch of three (clean, corrupted, restored) for each site. Here a batch holds the clean row
once and as many restored rows as memory allows. In a text encoder all rows are encoded side by side, and painting them
needs no donor at all; in a UNet the clean row rides along and its outputs are copied as they are computed.

Where the model lives does not matter here: a :class:`Case` encodes its prompt, a painter turns text states into
results (latents, pictures), a score turns results into numbers.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack

import torch

from ..results.trace import CausalTrace, TraceError
from ..results.trace_file import load_trace, save_trace
from .cases import Case, Restoration, encode_rows
from .interventions import Patch
from .plan import Job, Plan, jobs_of
from .score_table import Board

_SAVE_EVERY_S = 15.0
# What is kept of the first case's results while sweeping; examples beyond it are painted again.
_MOST_KEPT_BYTES = 256 * 2**20


class Painter(Protocol):
    """Runs the sampler on one row of text states for each picture, all from the seed's one initial noise."""

    def __call__(self, states: Any, seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        """``states`` (rows, tokens, width), or what :attr:`Case.given` makes of them, to results (rows, ...), with the
        UNet's patches done on the way."""
        ...


# Results (rows, ...), the clean run's result (1, ...) and the prompt to one number for each row, (rows,).
Score = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]
# Rows done, rows in all, and the results of the latest batch.
Progress = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        trace: every score.
        examples: results of the first prompt, seed and draw, (2 + len(cells), ...), on the CPU: clean, corrupted, and
            restored at each of ``cells``.
        cells: (row, column) of the restored examples, the largest average indirect effect first.
    """

    trace: CausalTrace
    examples: torch.Tensor
    cells: tuple[tuple[int, int], ...]


class SweepOptions(TypedDict, total=False):
    """What may be said of a sweep beyond what it needs.

    Attributes:
        settings: what the trace is to say of how it was made; JSON values.
        progress: told after each batch.
        partial: given, after each batch, a function that makes a trace of what is measured so far.
        checkpoint: a trace file that is kept up to date. When it exists and was made by the same plan, what it holds is
            not measured again; after an error or a cancel it holds what was finished.
        out_of_memory: errors after which fewer rows are painted at once.
        examples: how many of the strongest cells are among the sweep's examples, one if nothing is said. What a
            checkpoint spared is painted for them.
    """

    settings: Mapping[str, Any]
    progress: Progress
    partial: Callable[[Callable[[], CausalTrace]], None]
    checkpoint: Path | None
    out_of_memory: tuple[type[BaseException], ...]
    examples: int


def sweep(
    cases: Sequence[Case],
    plan: Plan,
    painter: Painter,
    score: Score,
    *,
    rows: int,
    score_name: str,
    **options: Unpack[SweepOptions],
) -> Sweep:
    """Run every restoration of the plan on every case.

    Args:
        rows: pictures painted at once; halved when memory runs out.
        options: see :class:`SweepOptions`.

    Raises:
        TraceError: nothing to trace, or the checkpoint belongs to another trace.
    """
    if not cases or not plan.groups or not plan.columns or not plan.seeds:
        raise TraceError("Nothing to trace: at least one prompt, site, column and seed are needed.")
    if len(plan.empty) >= len(plan.groups) * len(plan.columns):
        raise TraceError("Nothing to trace: no column has a position in a text encoder whose sites were chosen.")
    if plan.controls and any(case.draws < 2 for case in cases):
        raise TraceError("Controls need a second draw of the noise to restore from; this corruption has one.")
    _require_probed(plan)
    # As a file gives them back: a resumed trace compares them.
    board = Board(cases, plan, score_name, json.loads(json.dumps(dict(options.get("settings", {})))))
    checkpoint, progress = options.get("checkpoint"), options.get("progress", lambda done, total, results: None)
    if checkpoint is not None and checkpoint.exists():
        board.resume(load_trace(checkpoint), checkpoint)
    partial = options.get("partial", lambda trace: None)
    jobs = jobs_of(plan)
    total = len(cases) * len(plan.seeds) * len(jobs)
    lockstep = _Lockstep(plan, painter, rows, options.get("out_of_memory", (torch.cuda.OutOfMemoryError,)))
    kept: dict[Job, torch.Tensor] = {}
    done = 0
    with _keeping(board, checkpoint) as save_now_and_then:
        for (p, case), (s, seed) in itertools.product(enumerate(cases), enumerate(plan.seeds)):
            todo = [job for job in jobs if not board.has(p, s, job)]
            # The clean result is what distances are measured from.
            if todo and todo[0] is not jobs[0]:
                todo.insert(0, jobs[0])
            done += len(jobs) - len(todo)
            clean: torch.Tensor | None = None
            for batch, results in lockstep.batches(case, seed, todo):
                clean = results[:1] if clean is None else clean
                for job, value in zip(batch, _scores_of(score, results, clean, case.prompt), strict=True):
                    board.put(p, s, job, value)
                if p == s == 0:
                    _keep(kept, batch, results)
                done += len(batch)
                progress(done, total, results)
                partial(board.trace)
                save_now_and_then()
    trace = board.trace()
    cells = _strongest(trace, options.get("examples", 1))
    return Sweep(trace, _examples(lockstep, cases[0], plan.seeds[0], cells, kept), cells)


def _require_probed(plan: Plan) -> None:
    """Refuse other text where no text is read, and what makes no sense of a clean run."""
    if plan.restores:
        return
    other = [site.name for group in plan.groups for site in group if site.kind != "cross_context"]
    if other:
        raise TraceError(
            f"Other text is given to what cross-attentions read; {other[0]} reads something else. Choose sites of the "
            "kind cross_context."
        )
    if plan.sever is not None or plan.controls:
        raise TraceError("A run that reads other text has no controls and nothing to sever; set both to none.")


@contextmanager
def _keeping(board: Board, checkpoint: Path | None) -> Iterator[Callable[[], None]]:
    """Keep what is measured in a checkpoint: now and then where the function that is given is called, and at the end,
    whatever ends it."""
    saved = time.monotonic()

    def save_now_and_then() -> None:
        nonlocal saved
        if checkpoint is not None and time.monotonic() - saved > _SAVE_EVERY_S:
            save_trace(board.trace(), checkpoint, overwrite=True)
            saved = time.monotonic()

    try:
        yield save_now_and_then
    finally:
        if checkpoint is not None and board.anything():
            save_trace(board.trace(), checkpoint, overwrite=True)


def _examples(
    lockstep: _Lockstep, case: Case, seed: int, cells: Sequence[tuple[int, int]], kept: dict[Job, torch.Tensor]
) -> torch.Tensor:
    """The results clean, corrupted and restored at some cells, (2 + cells, ...); what was not kept is painted."""
    shown = [Job(None), Job(0), *(Job(0, group, column) for group, column in cells)]
    missing = [job for job in shown if job not in kept]
    for batch, results in lockstep.batches(case, seed, missing):
        kept.update(zip(batch, results.detach().cpu(), strict=True))
    return torch.stack([kept[job] for job in shown])


def _scores_of(score: Score, results: torch.Tensor, clean: torch.Tensor, prompt: str) -> list[float]:
    scores = score(results, clean, prompt).float().cpu()
    if scores.shape != (len(results),) or not torch.isfinite(scores).all():
        raise TraceError(
            f"The score gave {scores.tolist()} for {len(results)} pictures; expected one finite number for each."
        )
    return scores.tolist()


def _keep(kept: dict[Job, torch.Tensor], batch: Sequence[Job], results: torch.Tensor) -> None:
    """Take in results of the first draw while they fit."""
    room = _MOST_KEPT_BYTES // max(1, results[0].nbytes)
    for job, result in zip(batch, results, strict=True):
        if not job.draw and job.control is None and len(kept) < room:
            kept[job] = result.detach().to("cpu", copy=True)


def _strongest(trace: CausalTrace, count: int) -> tuple[tuple[int, int], ...]:
    """Measured cells by their average indirect effect, the largest first."""
    effects = trace.average_indirect_effect().flatten()
    order = effects.nan_to_num(-torch.inf).sort(descending=True, stable=True).indices[: min(count, _measured(effects))]
    return tuple(divmod(place, len(trace.columns)) for place in order.tolist())


def _measured(effects: torch.Tensor) -> int:
    return int(effects.isfinite().sum())


@dataclass(frozen=True)
class _Lockstep:
    """Paints jobs of one case and seed side by side; what :func:`sweep` is given for it."""

    plan: Plan
    painter: Painter
    rows: int
    out_of_memory: tuple[type[BaseException], ...]

    def batches(self, case: Case, seed: int, jobs: Sequence[Job]) -> Iterator[tuple[Sequence[Job], torch.Tensor]]:
        """The jobs in batches of as many rows as memory holds, with their results (len(batch), ...)."""
        start, size = 0, max(1, self.rows)
        while start < len(jobs):
            donors: tuple[int | None, ...] = ()
            count = size
            if self.plan.component == "unet":
                # Dropping jobs from a batch can only drop donors, so a first guess from the full batch is safe.
                donors = self._donors(case, jobs[start : start + size])
                count = max(1, size - len(donors))
                donors = self._donors(case, jobs[start : start + count])
            batch = jobs[start : start + count]
            try:
                results = self._paint(case, seed, batch, donors)
            except self.out_of_memory:
                if size <= 1 + len(donors):
                    raise
                size = max(1 + len(donors), size // 2)
                continue
            yield batch, results
            start += len(batch)

    def _donors(self, case: Case, batch: Sequence[Job]) -> tuple[int | None, ...]:
        """Draws (None: clean) whose rows must ride along because a job of the batch copies from them."""
        needed: dict[int | None, None] = {}
        for job in batch:
            if job.group is not None:
                needed[self._donor(job, case)] = None
                if self.plan.sever is not None:
                    needed[job.draw] = None
        own = {job.draw for job in batch if job.group is None}
        return tuple(draw for draw in needed if draw not in own)

    def _paint(self, case: Case, seed: int, batch: Sequence[Job], donors: Sequence[int | None]) -> torch.Tensor:
        if self.plan.component == "text":
            return self.painter(case.given(self._restored_states(case, batch)), seed, ())
        rows = [Restoration(draw) for draw in (*donors, *map(self._own, batch))]
        states = encode_rows(case, {}, rows)
        return self.painter(case.given(states), seed, self._patches(case, batch, donors))[len(donors) :]

    def _restored_states(self, case: Case, batch: Sequence[Job]) -> torch.Tensor:
        plan = self.plan
        restorations = [
            Restoration(job.draw)
            if job.group is None
            else Restoration(
                job.draw,
                tuple(site.name for site in plan.groups[job.group]),
                case.columns[job.column],
                self._donor(job, case),
                plan.severed(job.group),
            )
            for job in batch
        ]
        return encode_rows(case, {site.name: site for site in plan.sites}, restorations)

    def _patches(self, case: Case, batch: Sequence[Job], donors: Sequence[int | None]) -> list[Patch]:
        """What the UNet copies between the rows of a batch that has its donors in front."""
        plan = self.plan
        place = {draw: row for row, draw in enumerate(donors)}
        place |= {job.draw: row for row, job in enumerate(batch, start=len(donors)) if job.group is None}
        patches: list[Patch] = []
        for row, job in enumerate(batch, start=len(donors)):
            if job.group is not None:
                steps, donor = plan.steps[job.column], place[self._donor(job, case)]
                patches += [Patch(site.name, row, donor, None, steps) for site in plan.groups[job.group]]
                patches += [Patch(name, row, place[job.draw], None, steps) for name in plan.severed(job.group)]
        return patches

    def _own(self, job: Job) -> int | None:
        """The draw of a row's own text; None: it is clean."""
        return job.draw if job.group is None or self.plan.restores else None

    def _donor(self, job: Job, case: Case) -> int | None:
        """The draw of the row that a job copies from; None: the clean one."""
        if not self.plan.restores:
            return job.draw
        return None if job.donor is None else job.donor % case.draws
