"""How far a sweep is, read from its folder alone: nobody has to be asked, and no worker is disturbed."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from .store import Damage, SweepFolder

# The pace is that of the latest shards, if the last of them is not older.
_LATEST, _RECENT_S = 100, 3600.0


@dataclass(frozen=True)
class SweepStatus:
    """How far a sweep is.

    Attributes:
        done: finished shards.
        total: all shards.
        prompts: how many prompts have all their shards.
        damaged: files that do not count, and will be made anew.
        bytes: what the finished files take.
        per_hour: shards an hour, by the times of the latest files; None where too few are recent.
        left: seconds that the rest takes at that pace; None where it is not known.
    """

    done: int
    total: int
    prompts: int
    damaged: tuple[Damage, ...]
    bytes: int
    per_hour: float | None
    left: float | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        damaged = [
            {"file": damage.shard.name, "prompt": damage.shard.prompt, "reason": damage.reason}
            for damage in self.damaged
        ]
        return {**asdict(self), "damaged": damaged}

    def text(self) -> str:
        """In words."""
        lines = [
            f"{self.done:,} of {self.total:,} shards finished ({self.prompts:,} prompts whole), {self.bytes:,} bytes"
        ]
        if self.left is not None and self.per_hour is not None:
            lines.append(f"{self.per_hour:,.0f} shards an hour lately; {duration(self.left)} left at that pace")
        lines += [f"damaged, to be made anew: {damage.reason}" for damage in self.damaged[:20]]
        if len(self.damaged) > 20:
            lines.append(f"and {len(self.damaged) - 20} more damaged files")
        return "\n".join(lines)


def status_of(folder: SweepFolder, *, now: float | None = None) -> SweepStatus:
    """How far a sweep is; every file is read.

    Args:
        now: the time of the clock in seconds; by default the machine's.
    """
    now = time.time() if now is None else now
    finished, missing, damaged = folder.sorted_out()
    files = [folder.file(shard).stat() for shard in finished]
    lacking = {shard.prompt for shard in missing}
    times = sorted(file.st_mtime for file in files)[-_LATEST:]
    pace = None
    if len(times) > 1 and now - times[-1] < _RECENT_S and times[-1] > times[0]:
        pace = (len(times) - 1) / (times[-1] - times[0])
    return SweepStatus(
        len(finished),
        len(finished) + len(missing),
        len(folder.plan.prompts) - len(lacking),
        tuple(damaged),
        sum(file.st_size for file in files),
        None if pace is None else 3600 * pace,
        None if pace is None else len(missing) / pace,
    )


def duration(seconds: float) -> str:
    """A time in words of one size: "40 s", "12 min", "3.5 h", "4.2 days"."""
    for unit, size, digits in (("s", 1, 0), ("min", 60, 0), ("h", 3600, 1)):
        if seconds < 99.5 * size and (unit != "h" or seconds < 48 * size):
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86400:.1f} days"
