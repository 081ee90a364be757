"""Progress on stderr, for work that takes longer than a breath."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def progress(label: str, quiet: bool) -> Callable[[int, int], None] | None:
    """A function for (done, all) that rewrites a line on a terminal, or adds one every five seconds to a log."""
    if quiet:
        return None
    say = line_writer()

    def show(done: int, total: int) -> None:
        say(lambda elapsed: f"{label}: {100 * done // max(1, total)} %, {elapsed:.0f} s", done >= total)

    return show


def line_writer() -> Callable[[Callable[[float], str], bool], None]:
    """A function for (seconds to line, whether it is the last) that writes a line now and then, and the last one after
    another."""
    terminal = sys.stderr.isatty()
    pause, started = (0.2 if terminal else 5.0), time.monotonic()
    last, shown = started, 0

    def say(line: Callable[[float], str], finished: bool) -> None:
        nonlocal last, shown
        now = time.monotonic()
        if now - last >= pause or (finished and shown):
            text = line(now - started)
            # A shorter line must not leave the end of a longer one.
            whole = f"\r{text.ljust(shown)}" if terminal else text
            last, shown = now, len(text)
            print(whole, end="" if terminal and not finished else "\n", file=sys.stderr)

    return say
