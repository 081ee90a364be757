"""The peak of the memory that a piece of work takes."""

from __future__ import annotations

import gc
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Peak:
    """The most memory that a piece of work takes beyond what was there before it, in MiB."""

    mib: float = 0.0
    _before: float = field(default=0.0, repr=False)

    def __enter__(self) -> Peak:
        gc.collect()
        # Sets the kernel's record of the peak back to what is in use now.
        self._exact = _write("/proc/self/clear_refs", "5")
        self._before = _peak()
        return self

    def __exit__(self, *error: object) -> None:
        self.mib = _peak() - self._before

    def text(self) -> str:
        """The number; "at most" where the system keeps one record for the whole program."""
        return f"{self.mib:.0f}" if self._exact else f"{self.mib:.0f} (beyond all work before)"


def _write(path: str, text: str) -> bool:
    try:
        Path(path).write_text(text, encoding="ascii")
    except OSError:
        return False
    return True


def _peak() -> float:
    """The peak of the resident set in MiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / (2**20 if sys.platform == "darwin" else 2**10)
