"""Time by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the time of named stages: wall time, or that of another clock, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside as a part of a stage."""
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - start

    def milliseconds(self) -> tuple[tuple[str, float], ...]:
        """(stage, time) in the order in which the stages were first entered."""
        return tuple((stage, 1000 * seconds) for stage, seconds in self._seconds.items())
