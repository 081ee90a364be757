"""What the command ``reproduce`` does."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from ..reproduce.plan import FULL, QUICK
from ..reproduce.report import Reproduced
from ..reproduce.run import PUBLISHED_STEPS, QUICK_STEPS, Asked, Reproduction, Told
from ..sweeps.status import duration
from .output import print_json
from .progress import line_writer
from .tracing import needing_more


def reproduce(options: argparse.Namespace) -> None:
    """Say what the experiments are and how long they take; then run them."""
    asked = _asked(options)
    with needing_more():
        work = Reproduction(asked)
    seconds = work.seconds()
    plan = _plan_lines(work, asked, seconds)
    if options.dry_run:
        if options.json:
            print_json(_planned(work, seconds))
        else:
            print("\n".join(plan))
        return
    if not options.quiet:
        print("\n".join(plan), file=sys.stderr)
    found = work.run(Path(options.out), None if options.quiet else _told())
    if options.json:
        verdicts = [dataclasses.asdict(one) for one in found.verdicts]
        print_json({**_planned(work, seconds), "out": options.out, "verdicts": verdicts})
    else:
        print("\n".join(_end_lines(found, options.out)))


def _asked(options: argparse.Namespace) -> Asked:
    size = QUICK if options.quick else FULL
    given = {name: getattr(options, name) for name in ("prompts", "captions", "concepts", "seeds")}
    size = dataclasses.replace(size, **{name: value for name, value in given.items() if value is not None})
    return Asked(
        options.model,
        size,
        options.steps or (QUICK_STEPS if options.quick else PUBLISHED_STEPS),
        options.scorer or "latent",
        options.device,
        options.dtype,
        options.size,
        options.attributes,
    )


def _plan_lines(work: Reproduction, asked: Asked, seconds: float) -> list[str]:
    done = work.experiments
    lines = [f"{one.name}: {len(one.prompts)} prompts, at most {one.pictures:,} pictures" for one in done.traced]
    lines += [f"edits: {len(done.edited)}"] if done.edited else []
    lines += [f"skipped: {text}" for text in done.skipped]
    lines.append(
        f"about {done.pictures:,} pictures of {asked.steps} steps; by one timed picture {duration(seconds)}, less "
        "where several at once are faster"
    )
    return lines


def _planned(work: Reproduction, seconds: float) -> dict[str, Any]:
    done = work.experiments
    return {
        "traces": [{"name": one.name, "prompts": len(one.prompts), "pictures": one.pictures} for one in done.traced],
        "edits": [one.title for one in done.edited],
        "skipped": list(done.skipped),
        "pictures": done.pictures,
        "estimated_seconds": seconds,
    }


def _told() -> Told:
    say = line_writer()

    def tell(name: str, done: int, total: int) -> None:
        say(lambda elapsed: f"{name}: {done:,} of {total:,}, {duration(elapsed)}", done >= total)

    return tell


def _end_lines(found: Reproduced, out: str) -> list[str]:
    lines = [f"{one.claim}{f' ({one.of})' if one.of else ''}: {one.verdict}. {one.why}" for one in found.verdicts]
    return [*lines, f"wrote report.html and result.json in {out}"]
