"""Workers that trace shards: in this process, in a pool of processes, behind any ``submit`` of concurrent.futures."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import resource_tracker
from typing import Any

import torch

from .plan import Shard, SweepError
from .ray_workers import RayWorkers
from .tasks import Outcome, Task, Workers, trace_shard

_POLL_S = 0.02


class SerialWorkers:
    """This process itself."""

    size = 1

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def start(self, task: Task) -> None:
        self._tasks.append(task)

    def ended(self) -> list[Outcome]:
        return [trace_shard(self._tasks.pop(0))] if self._tasks else []

    def close(self, *, cancel: bool) -> None:
        self._tasks.clear()


class FutureWorkers:
    """Anything with ``submit(function, argument)`` that gives something with ``done()`` and ``result()``: an executor
    of concurrent.futures, a Dask client, a submitit executor. It belongs to the caller, who closes it."""

    def __init__(self, executor: Any, size: int) -> None:
        self.size, self._executor = size, executor
        self._running: list[tuple[Shard, Any]] = []

    def start(self, task: Task) -> None:
        try:
            self._running.append((task.shard, self._executor.submit(trace_shard, task)))
        except BrokenExecutor as error:
            raise SweepError(
                f"The executor has lost its workers ({error}). Run the sweep again with a new one."
            ) from error

    def ended(self) -> list[Outcome]:
        ready = [future.done() for _, future in self._running]
        if not any(ready):
            time.sleep(_POLL_S)
            return []
        done = [entry for entry, over in zip(self._running, ready, strict=True) if over]
        self._running = [entry for entry, over in zip(self._running, ready, strict=True) if not over]
        return [self._outcome(shard, future) for shard, future in done]

    def close(self, *, cancel: bool) -> None:
        for _, future in self._running if cancel else ():
            with contextlib.suppress(AttributeError):
                future.cancel()

    @staticmethod
    def _outcome(shard: Shard, future: Any) -> Outcome:
        try:
            return future.result()
        except Exception as error:
            # A worker tells its errors as outcomes; whatever else comes, the executor itself says.
            return Outcome(shard, error=f"{type(error).__name__}: {error}", lost=True)


class PoolWorkers(FutureWorkers):
    """Processes of this machine, each with a model of its own; a pool that lost one is replaced.

    Args:
        size: how many processes.
        threads: of PyTorch in each; None: what the machine has, shared evenly.
    """

    def __init__(self, size: int, threads: int | None = None) -> None:
        self._threads = threads or max(1, torch.get_num_threads() // size)
        super().__init__(self._pool(size), size)

    def _pool(self, size: int) -> ProcessPoolExecutor:
        self._before = set(multiprocessing.active_children())
        # A fork would copy the threads' locks of PyTorch, but not the threads.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(size, mp_context=context, initializer=_prepare, initargs=(self._threads,))

    def start(self, task: Task) -> None:
        with _uninterrupted():
            try:
                future = self._executor.submit(trace_shard, task)
            except BrokenExecutor:
                self._executor.shutdown(wait=True, cancel_futures=True)
                self._executor = self._pool(self.size)
                future = self._executor.submit(trace_shard, task)
        self._running.append((task.shard, future))

    def close(self, *, cancel: bool) -> None:
        own = [child for child in multiprocessing.active_children() if child not in self._before]
        if cancel:
            for child in own:
                child.terminate()
        self._executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back an interrupt until the block ends; processes that are started in it never see one."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    # Its own start would let interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(threads: int) -> None:
    """In a worker process: an interrupt at the keyboard is for the process that started it, whose end is this one's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's workers would wait for ever for one that was killed: each holds the others' pipes open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def workers_named(name: str, size: int, **options: Any) -> Workers:
    """Workers by name: "serial", "process" or "ray".

    Args:
        options: of :class:`~.ray_workers.RayWorkers`.

    Raises:
        SweepError: an unknown name, or Ray is not installed.
    """
    makers: dict[str, Callable[[], Workers]] = {
        "serial": SerialWorkers,
        "process": lambda: PoolWorkers(size),
        "ray": lambda: RayWorkers(size, **options),
    }
    if name not in makers:
        raise SweepError(f"There are no workers named {name!r}; expected one of {', '.join(makers)}.")
    if size < 1:
        raise SweepError(f"At least one worker is needed; got {size}.")
    return makers[name]()


def waiting(shards: Sequence[Shard], part: tuple[int, int] | None) -> list[Shard]:
    """The shards of one part of several, counted from 1; None: all of them.

    Raises:
        SweepError: there is no such part.
    """
    if part is None:
        return list(shards)
    number, parts = part
    if not 1 <= number <= parts:
        raise SweepError(f"There is no part {number} of {parts}; expected 1 to {parts}.")
    return list(shards)[number - 1 :: parts]
