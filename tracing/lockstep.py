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
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from .corruption import Corruption
from .interventions import Patch, adding, patching
from .result import CausalTrace, TraceError
from .sites import Site, group_name

# Text rows encoded at once; they are small.
_ENCODED_ROWS = 128
_SAVE_EVERY_S = 15.0


class Painter(Protocol):
    """Runs the sampler on one row of text states for each picture, all from the seed's one initial noise."""

    def __call__(self, states: torch.Tensor, seed: int, patches: Sequence[Patch]) -> torch.Tensor:
        """``states`` (rows, tokens, width) to results (rows, ...), with the UNet's patches done on the way."""
        ...


# Results (rows, ...), the clean run's result (1, ...) and the prompt to one number for each row, (rows,).
Score = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]
# Rows done, rows in all, and the results of the latest batch.
Progress = Callable[[int, int, torch.Tensor], None]


@dataclass(frozen=True)
class Case:
    """One prompt to trace.

    Attributes:
        prompt: the text, as painted.
        subject: the words that are corrupted.
        corruption: shifts of the subject's embeddings. A draw beyond those traced is the control's donor.
        encode: encodes the prompt as ``n`` equal rows; (n, tokens, width). It is called with hooks in place.
        columns: for a text trace, the token positions of each column (None: all of them).
        chunks: how many 77-token rows the encoder makes of one prompt.
        chunk: which of them holds the subject.
    """

    prompt: str
    subject: str
    corruption: Corruption
    encode: Callable[[int], torch.Tensor]
    columns: tuple[tuple[int, ...] | None, ...] = ()
    chunks: int = 1
    chunk: int = 0

    def index(self, row: int) -> Sequence[int]:
        """Where the subject's 77 tokens of a row stand in the encoder's batch."""
        return (row * self.chunks + self.chunk,)


@dataclass(frozen=True)
class Restoration:
    """What one text row is: a draw of the corruption (None: clean), and what is put back into it.

    Attributes:
        draw: the draw, or None.
        sites: the names of the sites that are restored.
        positions: the token positions at which; None for all.
        donor: the draw whose states are put in; None for the clean run's.
        severed: names of sites that are held at the corrupted run's states, at all positions.
    """

    draw: int | None
    sites: tuple[str, ...] = ()
    positions: tuple[int, ...] | None = None
    donor: int | None = None
    severed: tuple[str, ...] = ()


def encode_rows(
    case: Case, first_layer: nn.Module, sites: Mapping[str, Site], rows: Sequence[Restoration]
) -> torch.Tensor:
    """Text states of several restorations of one prompt, encoded side by side.

    Returns:
        (len(rows), tokens, width).
    """
    draws = case.corruption.draws
    parts = []
    for start in range(0, len(rows), _ENCODED_ROWS):
        part = rows[start : start + _ENCODED_ROWS]
        base = 1 + draws
        deltas = {1 + draw: case.corruption.deltas[draw] for draw in range(draws)}
        patches: list[Patch] = []
        for number, row in enumerate(part):
            if row.draw is not None:
                deltas[base + number] = case.corruption.deltas[row.draw]
                donor = 0 if row.donor is None else 1 + row.donor
                patches += [Patch(site, base + number, donor, row.positions) for site in row.sites]
                patches += [Patch(site, base + number, 1 + row.draw) for site in row.severed]
        with ExitStack() as stack:
            stack.enter_context(adding(first_layer, deltas, case.corruption.positions, index=case.index))
            stack.enter_context(patching(sites, patches, index=case.index))
            parts.append(case.encode(base + len(part))[base:])
    return torch.cat(parts)


@dataclass(frozen=True)
class Plan:
    """What to sweep.

    Attributes:
        component: "text" or "unet".
        groups: windows of sites that are restored together.
        sites: all sites of the component in the order in which they run; ``sever`` looks downstream in it.
        columns: labels of the second axis: tokens or roles, or step windows.
        steps: for a UNet trace, the step window of each column (None: all steps).
        seeds: seeds of the initial noise.
        draws: noise draws that are traced.
        controls: null restorations for each prompt, seed and draw, at random sites and columns, with the states of
            another corrupted draw.
        sever: hold downstream sites of this kind at their corrupted states, as in ROME's ablation.
        control_seed: seed of the choice of controls.
    """

    component: str
    groups: tuple[tuple[Site, ...], ...]
    sites: tuple[Site, ...]
    columns: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[range | None, ...] = ()
    draws: int = 1
    controls: int = 0
    sever: str | None = None
    control_seed: int = 0

    def names(self) -> tuple[str, ...]:
        return tuple(group_name(group) for group in self.groups)

    def severed(self, group: int) -> tuple[str, ...]:
        """Names of the sites that are held corrupted while a group is restored."""
        if self.sever is None:
            return ()
        last = max(self.sites.index(site) for site in self.groups[group])
        inside = set(self.groups[group])
        return tuple(s.name for s in self.sites[last + 1 :] if s.kind == self.sever and s not in inside)


@dataclass(frozen=True)
class _Job:
    """One row to paint and where its score goes."""

    draw: int | None
    group: int | None = None
    column: int = 0
    donor: int | None = None
    control: int | None = None


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        trace: every score.
        examples: results of the first prompt, seed and draw, (3, ...): clean, corrupted, and restored at the cell with
            the largest average indirect effect.
    """

    trace: CausalTrace
    examples: torch.Tensor


def sweep(
    cases: Sequence[Case],
    plan: Plan,
    painter: Painter,
    score: Score,
    *,
    first_layer: nn.Module,
    rows: int,
    score_name: str,
    settings: Mapping[str, Any] | None = None,
    progress: Progress = lambda done, total, results: None,
    checkpoint: Path | None = None,
    out_of_memory: tuple[type[BaseException], ...] = (torch.cuda.OutOfMemoryError,),
) -> Sweep:
    """Run every restoration of the plan on every case.

    Args:
        first_layer: layer 0 of the text encoder, where the corruption enters.
        rows: pictures painted at once; halved when memory runs out.
        checkpoint: a trace file that is kept up to date. When it exists and was made by the same plan, what it holds is
            not measured again; after an error or a cancel it holds what was finished.

    Raises:
        TraceError: nothing to trace, or the checkpoint belongs to another trace.
    """
    if not cases or not plan.groups or not plan.columns or not plan.seeds:
        raise TraceError("Nothing to trace: at least one prompt, site, column and seed are needed.")
    if plan.controls and any(case.corruption.draws < 2 for case in cases):
        raise TraceError("Controls need a second draw of the noise to restore from; this corruption has one.")
    # As a file gives them back: a resumed trace compares them.
    board = _Board(cases, plan, score_name, json.loads(json.dumps(dict(settings or {}))))
    if checkpoint is not None and checkpoint.exists():
        board.resume(CausalTrace.load(checkpoint), checkpoint)
    jobs = _jobs(plan)
    total = len(cases) * len(plan.seeds) * len(jobs)
    saved = time.monotonic()
    done = 0
    try:
        for (p, case), (s, seed) in itertools.product(enumerate(cases), enumerate(plan.seeds)):
            todo = [job for job in jobs if not board.has(p, s, job)]
            # The clean result is what distances are measured from.
            if todo and todo[0] is not jobs[0]:
                todo.insert(0, jobs[0])
            done += len(jobs) - len(todo)
            clean: torch.Tensor | None = None
            for batch, results in _paint(case, plan, todo, seed, painter, first_layer, rows, out_of_memory):
                clean = results[:1] if clean is None else clean
                scores = score(results, clean, case.prompt).float().cpu()
                if len(scores) != len(batch) or not torch.isfinite(scores).all():
                    raise TraceError(f"The score gave {scores.tolist()} for {len(batch)} pictures; expected one finite "
                                     "number for each.")
                for job, value in zip(batch, scores.tolist(), strict=True):
                    board.put(p, s, job, value)
                done += len(batch)
                progress(done, total, results)
                if checkpoint is not None and time.monotonic() - saved > _SAVE_EVERY_S:
                    board.trace().save(checkpoint, overwrite=True)
                    saved = time.monotonic()
    finally:
        if checkpoint is not None and board.anything():
            board.trace().save(checkpoint, overwrite=True)
    trace = board.trace()
    effects = trace.average_indirect_effect()
    group, column = divmod(int(effects.argmax()), len(plan.columns))
    shown = [jobs[0], jobs[1], _Job(0, group, column)]
    painted = _paint(cases[0], plan, shown, plan.seeds[0], painter, first_layer, len(shown), ())
    return Sweep(trace, torch.cat([results for _, results in painted]))


def _jobs(plan: Plan) -> list[_Job]:
    """Clean first, then corrupted, then restored, then controls: donors other than the clean row are needed last."""
    jobs = [_Job(None), *(_Job(draw) for draw in range(plan.draws))]
    cells = list(itertools.product(range(len(plan.groups)), range(len(plan.columns))))
    jobs += [_Job(draw, group, column) for draw in range(plan.draws) for group, column in cells]
    picker = random.Random(plan.control_seed)
    for draw, number in itertools.product(range(plan.draws), range(plan.controls)):
        group, column = picker.choice(cells)
        jobs.append(_Job(draw, group, column, draw + 1, number))
    return jobs


def _paint(
    case: Case,
    plan: Plan,
    jobs: Sequence[_Job],
    seed: int,
    painter: Painter,
    first_layer: nn.Module,
    rows: int,
    out_of_memory: tuple[type[BaseException], ...],
) -> Iterator[tuple[Sequence[_Job], torch.Tensor]]:
    """Jobs of one case and seed in batches, with their results (len(jobs), ...)."""
    start, size = 0, max(1, rows)
    while start < len(jobs):
        donors: tuple[int | None, ...] = ()
        count = size
        if plan.component == "unet":
            # Dropping jobs from a batch can only drop donors, so a first guess from the full batch is safe.
            donors = _donors(plan, case, jobs[start : start + size])
            count = max(1, size - len(donors))
            donors = _donors(plan, case, jobs[start : start + count])
        batch = jobs[start : start + count]
        try:
            results = _paint_batch(case, plan, batch, donors, seed, painter, first_layer)
        except out_of_memory:
            if size <= 1 + len(donors):
                raise
            size = max(1 + len(donors), size // 2)
            continue
        yield batch, results
        start += len(batch)


def _donors(plan: Plan, case: Case, batch: Sequence[_Job]) -> tuple[int | None, ...]:
    """Draws (None: clean) whose rows must ride along because a job of the batch copies from them."""
    needed: dict[int | None, None] = {}
    for job in batch:
        if job.group is not None:
            needed[_donor(job, case)] = None
            if plan.sever is not None:
                needed[job.draw] = None
    own = {job.draw for job in batch if job.group is None}
    return tuple(draw for draw in needed if draw not in own)


def _donor(job: _Job, case: Case) -> int | None:
    return None if job.donor is None else job.donor % case.corruption.draws


def _paint_batch(
    case: Case,
    plan: Plan,
    batch: Sequence[_Job],
    donors: Sequence[int | None],
    seed: int,
    painter: Painter,
    first_layer: nn.Module,
) -> torch.Tensor:
    sites = {site.name: site for site in plan.sites}
    if plan.component == "text":
        restorations = [
            Restoration(job.draw) if job.group is None else Restoration(
                job.draw, tuple(site.name for site in plan.groups[job.group]), case.columns[job.column],
                _donor(job, case), plan.severed(job.group),
            )
            for job in batch
        ]
        return painter(encode_rows(case, first_layer, sites, restorations), seed, ())
    states = encode_rows(case, first_layer, {}, [Restoration(draw) for draw in (*donors, *(j.draw for j in batch))])
    place = {draw: row for row, draw in enumerate(donors)}
    place |= {job.draw: row for row, job in enumerate(batch, start=len(donors)) if job.group is None}
    patches: list[Patch] = []
    for row, job in enumerate(batch, start=len(donors)):
        if job.group is not None:
            steps = plan.steps[job.column]
            donor = place[_donor(job, case)]
            patches += [Patch(site.name, row, donor, None, steps) for site in plan.groups[job.group]]
            patches += [Patch(name, row, place[job.draw], None, steps) for name in plan.severed(job.group)]
    return painter(states, seed, patches)[len(donors):]


class _Board:
    """The scores so far."""

    def __init__(self, cases: Sequence[Case], plan: Plan, score_name: str, settings: dict[str, Any]) -> None:
        shape = (len(cases), len(plan.seeds))
        self._plan, self._score = plan, score_name
        self._cases = cases
        self._settings = settings
        self._clean = torch.full(shape, torch.nan)
        self._corrupted = torch.full((*shape, plan.draws), torch.nan)
        self._restored = torch.full((*shape, plan.draws, len(plan.groups), len(plan.columns)), torch.nan)
        self._control = torch.full((*shape, plan.draws, plan.controls), torch.nan)

    def _cell(self, p: int, s: int, job: _Job) -> torch.Tensor:
        if job.draw is None:
            return self._clean[p, s]
        if job.group is None:
            return self._corrupted[p, s, job.draw]
        if job.control is not None:
            return self._control[p, s, job.draw, job.control]
        return self._restored[p, s, job.draw, job.group, job.column]

    def has(self, p: int, s: int, job: _Job) -> bool:
        return bool(self._cell(p, s, job).isfinite())

    def put(self, p: int, s: int, job: _Job, value: float) -> None:
        self._cell(p, s, job).fill_(value)

    def anything(self) -> bool:
        return bool(self._clean.isfinite().any())

    def trace(self) -> CausalTrace:
        return CausalTrace(
            component=self._plan.component,
            sites=self._plan.names(),
            columns=self._plan.columns,
            column_axis="token" if self._plan.component == "text" else "step",
            prompts=tuple(case.prompt for case in self._cases),
            subjects=tuple(case.subject for case in self._cases),
            seeds=self._plan.seeds,
            draws=self._plan.draws,
            clean=self._clean.clone(),
            corrupted=self._corrupted.clone(),
            restored=self._restored.clone(),
            control=self._control.clone(),
            score=self._score,
            settings=self._settings,
        )

    def resume(self, earlier: CausalTrace, path: Path) -> None:
        """Take over the scores of an interrupted sweep.

        Raises:
            TraceError: it is not the same sweep; the message names what differs.
        """
        mine = self.trace()
        names = ("component", "sites", "columns", "prompts", "subjects", "seeds", "draws", "score", "settings")
        differing = [name for name in names if getattr(mine, name) != getattr(earlier, name)]
        if earlier.control.shape != mine.control.shape:
            differing.append("controls")
        if differing:
            raise TraceError(
                f"The checkpoint {path.name} was made with other {', '.join(differing)}. Name another file, or delete "
                "this one to start over."
            )
        for target, values in (
            (self._clean, earlier.clean), (self._corrupted, earlier.corrupted), (self._restored, earlier.restored),
            (self._control, earlier.control),
        ):
            target.copy_(values)
