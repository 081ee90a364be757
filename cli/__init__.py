"""The shell: ``diff-quickfix``, or ``python -m diff_quickfix``. What is heavy is imported once the arguments are right.

Exit codes: 0 done, 1 an error (said in one line on stderr), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from .arguments import parse_arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code, or raises SystemExit(2) on wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        # A console or a redirected file may know fewer characters than concepts are written in.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    options = parse_arguments(arguments)
    try:
        from . import commands

        getattr(commands, options.command)(options)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was left half-written", 130)
    except ModuleNotFoundError as error:
        return _fail(f"{error}. The shell needs torch, safetensors and tokenizers: run it in ComfyUI's own Python.")
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing more can be said, and Python must not try at exit.
        sys.stdout = None  # type: ignore[assignment]
        return 1
    except (ValueError, OSError) as error:
        return _fail(str(error))
    return 0


def _fail(message: str, code: int = 1) -> int:
    print(f"diff-quickfix: error: {message}", file=sys.stderr)
    return code
