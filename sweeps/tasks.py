"""What a worker is given and gives back, and what it does; and what all kinds of workers offer."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..tracing.results.trace import TraceError
from .plan import Shard, SweepError
from .store import SweepFolder
from .tracers import Opener, made_with, opened


@dataclass(frozen=True)
class Task:
    """A shard to trace, and all that a worker needs for it; it can be pickled."""

    opener: Opener
    folder: str
    shard: Shard


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Attributes:
        shard: its shard.
        seconds: how long it took.
        error: what went wrong; "" for nothing.
        stops: whether the error would meet every other shard too.
        lost: whether the worker died, so that the shard may be tried again.
    """

    shard: Shard
    seconds: float = 0.0
    error: str = ""
    stops: bool = False
    lost: bool = False


def trace_shard(task: Task) -> Outcome:
    """Trace a shard and write its file, unless it is finished already. Runs in a worker; errors are told."""
    started = time.monotonic()

    def ended(error: str = "", stops: bool = False) -> Outcome:
        return Outcome(task.shard, time.monotonic() - started, error, stops)

    try:
        folder = _folder(task.folder, (Path(task.folder) / "plan.json").stat().st_mtime_ns)
        if folder.has(task.shard):
            return ended()
        tracer = opened(task.opener)
        if differing := _differing(folder.plan.identity, tracer.identity):
            return ended(
                f"The model is not the one that the sweep was begun with: other {', '.join(differing)}. Give that one, "
                "or name another folder.",
                stops=True,
            )
    except FileNotFoundError:
        return ended(f"There is no sweep in {task.folder} any more.", stops=True)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        return ended(str(error), stops=True)
    try:
        trace = tracer.trace(task.shard.prompt, task.shard.seeds)
    except ValueError as error:
        return ended(f"{task.shard.prompt!r}: {error}")
    except Exception as error:  # one prompt's failure must not end the others
        return ended(f"{task.shard.prompt!r}: {type(error).__name__}: {error}")
    try:
        folder.write(task.shard, trace, made_with(task.opener))
    except (TraceError, OSError) as error:
        return ended(str(error), stops=True)
    except SweepError as error:
        return ended(f"{task.shard.prompt!r}: {error}")
    return ended()


@functools.lru_cache(maxsize=1)
def _folder(path: str, changed: int) -> SweepFolder:
    """The sweep in a folder, read again when its plan has ``changed`` at another time: a long plan takes long."""
    return SweepFolder.open(Path(path))


def _differing(wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]


class Workers(Protocol):
    """Where tasks run.

    Attributes:
        size: how many run at a time.
    """

    size: int

    def start(self, task: Task) -> None:
        """Begin a task, or queue it."""
        ...

    def ended(self) -> list[Outcome]:
        """The outcomes since the last call; waits a moment if there are none."""
        ...

    def close(self, *, cancel: bool) -> None:
        """Let go of the workers; with ``cancel`` without waiting for what they do."""
        ...
