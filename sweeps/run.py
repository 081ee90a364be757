"""Running a sweep: shards go to workers until all are finished; what is finished stays so, whatever happens."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from .plan import Shard, SweepError
from .store import Damage, SweepFolder
from .tasks import Outcome, Task, Workers
from .tracers import Opener, opener_of
from .workers import FutureWorkers, waiting, workers_named

# A worker that dies again and again does so because of what it works on.
_TRIES = 3
_MOST_FAILURES = 10


@dataclass(frozen=True)
class SweepProgress:
    """How far a sweep is.

    Attributes:
        done: finished shards, those of earlier runs among them.
        total: all shards of this run's part.
        elapsed: seconds since this run began.
        left: seconds that the rest will take at this run's pace; None before the first shard.
        workers_lost: how many times a worker died and its shard was given to another.
    """

    done: int
    total: int
    elapsed: float
    left: float | None
    workers_lost: int = 0


@dataclass(frozen=True)
class SweepEnd:
    """How a run ended.

    Attributes:
        done: finished shards of the run's part.
        total: its shards.
        damaged: files that did not count and were made anew.
        failed: shards that could not be traced, with what was said.
        workers_lost: how many times a worker died.
    """

    done: int
    total: int
    damaged: tuple[Damage, ...] = ()
    failed: tuple[tuple[Shard, str], ...] = ()
    workers_lost: int = 0


def run_sweep(
    folder: SweepFolder,
    executor: Any = "serial",
    *,
    workers: int = 1,
    opener: Opener | None = None,
    part: tuple[int, int] | None = None,
    progress: Callable[[SweepProgress], None] | None = None,
    **options: Any,
) -> SweepEnd:
    """Trace the shards that are not finished.

    A shard that cannot be traced (a subject that is not found, say) is told at the end, and the others go on. What
    would meet every shard (no room on the disk, another model) stops the run. An interrupt lets go of the workers and
    is raised again; finished shards stay.

    Args:
        executor: "serial", "process" or "ray"; :class:`~.workers.Workers`; or anything with ``submit`` as in
            concurrent.futures, which stays open.
        workers: how many shards are traced at a time.
        opener: opens the tracer; by default as the plan says, on the CPU.
        part: (k, n): only the k-th of n parts, for machines that share a folder or are merged later.
        progress: told at the start and after each shard.
        options: of the workers.

    Raises:
        SweepError: the run stopped; the message says why, and running it again goes on.
    """
    if folder.plan.version != __version__:
        raise SweepError(
            f"The sweep was made by version {folder.plan.version} and this is {__version__}, whose scores may differ. "
            "Continue it with that version, or begin a new folder."
        )
    folder.clean()
    opener = opener_of(folder.plan) if opener is None else opener
    part_of = waiting(list(folder.plan.shards()), part)
    finished, missing, damaged = folder.sorted_out(part_of)
    run = _Run(folder, opener, missing, len(finished), len(part_of), progress)
    run.tell()
    if missing:
        staff = _staff(executor, workers, options)
        try:
            run.through(staff)
        except BaseException:
            staff.close(cancel=True)
            folder.clean(0.0, run.begun)
            raise
        staff.close(cancel=False)
    return SweepEnd(run.done, run.total, tuple(damaged), tuple(run.failed), run.lost)


def _staff(executor: Any, workers: int, options: dict[str, Any]) -> Workers:
    if isinstance(executor, str):
        return workers_named(executor, workers, **options)
    if hasattr(executor, "submit"):
        return FutureWorkers(executor, workers)
    return executor


class _Run:
    """The bookkeeping of one run."""

    def __init__(
        self,
        folder: SweepFolder,
        opener: Opener,
        missing: Sequence[Shard],
        done: int,
        total: int,
        progress: Callable[[SweepProgress], None] | None,
    ) -> None:
        self._folder, self._opener, self._progress = folder, opener, progress
        self._queue, self._tries = list(reversed(missing)), Counter[Shard]()
        self._before, self.done, self.total = done, done, total
        self._started = time.monotonic()
        # Those that a killed worker may have left half-written are among them until they are finished.
        self.begun: set[Shard] = set()
        self.failed: list[tuple[Shard, str]] = []
        self.lost = 0

    def tell(self) -> None:
        if self._progress is not None:
            elapsed, new = time.monotonic() - self._started, self.done - self._before
            rest = self.total - self.done - len(self.failed)
            left = elapsed / new * rest if new else None
            self._progress(SweepProgress(self.done, self.total, elapsed, left, self.lost))

    def through(self, workers: Workers) -> None:
        """Until every shard is finished or has failed. A few tasks wait ahead, so that no worker does."""
        running = 0
        while self._queue or running:
            while self._queue and running < workers.size + max(1, workers.size // 4):
                shard = self._queue.pop()
                self.begun.add(shard)
                workers.start(Task(self._opener, str(self._folder.path), shard))
                running += 1
            for outcome in workers.ended():
                running -= 1
                if not outcome.lost:
                    self.begun.discard(outcome.shard)
                self._take(outcome)
                self.tell()

    def _take(self, outcome: Outcome) -> None:
        if outcome.lost:
            self.lost += 1
            self._tries[outcome.shard] += 1
            if self._tries[outcome.shard] >= _TRIES:
                raise SweepError(
                    f"{_TRIES} times a worker died while {outcome.shard.prompt!r} was among what was traced "
                    f"({outcome.error}). Is there too little memory, or does a script start the sweep outside of "
                    "if __name__ == '__main__'? Run the sweep again to go on."
                )
            # Last: what kills workers must not keep the others from being traced.
            self._queue.insert(0, outcome.shard)
        elif outcome.stops:
            raise SweepError(f"{outcome.error} The sweep stopped; finished shards count when it is run again.")
        elif outcome.error:
            self.failed.append((outcome.shard, outcome.error))
            if len(self.failed) >= _MOST_FAILURES:
                raise SweepError(
                    f"{_MOST_FAILURES} shards could not be traced; the sweep stopped. The first: {self.failed[0][1]}"
                )
        else:
            self.done += 1
