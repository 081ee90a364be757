"""Progress on stderr, for work that takes longer than a breath."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def progress(label: str, quiet: bool) -> Callable[[int, int], None] | None:
    """A function for (done, all) that rewrites a line on a terminal, or adds one every five seconds to a log."""
    if quiet:
        return None
    terminal = sys.stderr.isatty()
    pause, started = (0.2 if terminal else 5.0), time.monotonic()
    last, shown = started, False

    def show(done: int, total: int) -> None:
        nonlocal last, shown
        now, finished = time.monotonic(), done >= total
        if now - last >= pause or (finished and shown):
            last, shown = now, True
            line = f"{label}: {100 * done // max(1, total)} %, {now - started:.0f} s"
            print(f"\r{line}" if terminal else line, end="" if terminal and not finished else "\n", file=sys.stderr)

    return show
