"""What the commands that trace do: ``trace``, ``sweep`` and ``show``."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..output.files import whole_file
from ..sweeps.plan import SweepError, read_prompts, seed_blocks
from ..sweeps.run import SweepEnd, SweepProgress, run_sweep
from ..sweeps.scores import joined, sweep_scores
from ..sweeps.status import duration, status_of
from ..sweeps.store import SweepFolder
from ..sweeps.tracers import new_plan, opener_of
from ..tracing.results.heatmap import VALUES, draw_heatmap, heatmap_svg
from ..tracing.results.judgement import Judgement
from ..tracing.results.tables import trace_table
from ..tracing.results.text_map import text_map
from ..tracing.results.trace import CausalTrace
from ..tracing.results.trace_file import load_trace, save_trace
from .output import print_json
from .progress import line_writer
from .trace_arguments import SETTINGS

_SHOWN = 10


def trace(options: argparse.Namespace) -> None:
    """Trace prompts into a folder, or go on with it."""
    try:
        text = Path(options.prompts).expanduser()
        prompts = read_prompts(text.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise SweepError(f"{options.prompts} is no text in UTF-8 ({error}). Save it as such.") from error
    settings = {
        name: getattr(options, option) for option, name in SETTINGS.items() if getattr(options, option) is not None
    }
    settings |= dict(options.set)
    blocks = seed_blocks(options.seeds, options.seed_block)
    with needing_more():
        plan = new_plan(options.model, settings, prompts, blocks, device=options.device)
    folder = SweepFolder.make(Path(options.out), plan)
    more = {"gpus": options.gpus, "address": options.ray_address} if options.executor == "ray" else {}
    end = run_sweep(
        folder,
        options.executor,
        workers=options.workers,
        opener=opener_of(folder.plan, device=options.device),
        part=options.part,
        progress=_told(options.quiet),
        **more,
    )
    if options.json:
        print_json({"out": options.out, "plan": folder.plan.hash, **_ended(end)})
    else:
        print("\n".join(_end_lines(end, options.out)))
    if end.failed:
        raise SweepError(f"{len(end.failed)} of {end.total} shards could not be traced; correct their prompts.")


@contextlib.contextmanager
def needing_more() -> Iterator[None]:
    """Say what to install where the block lacks a library (SweepError)."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise SweepError(f'{error}. Tracing a pipeline needs more: pip install "diff-quickfix[sweep]"') from error


def sweep(options: argparse.Namespace) -> None:
    """What is asked of a sweep's folder."""
    folder = SweepFolder.open(Path(options.folder))
    said = {"status": _status, "join": _join, "report": _report, "merge": _merge}[options.action](folder, options)
    if options.json:
        print_json(said)
    elif "text" in said:
        print(said["text"])


def show(options: argparse.Namespace) -> None:
    """Draw a trace."""
    path, judgement = Path(options.file), None
    if path.is_dir():
        folder = SweepFolder.open(path)
        scores = sweep_scores(folder, partial=True)
        trace, judgement = scores.trace, scores.judgement
        if left_out := len(folder.plan.prompts) - len(trace.prompts):
            print(f"diff-quickfix: warning: {left_out:,} prompts are not finished and left out", file=sys.stderr)
    else:
        trace = load_trace(path)
    value = VALUES[0] if options.value == "effect" else VALUES[1]
    if not options.out:
        width = options.width or shutil.get_terminal_size((100, 24)).columns
        print(text_map(trace, value=value, width=width, judgement=judgement))
        return
    _draw(trace, judgement, value, options)
    print(f"wrote {options.out}")


def _draw(trace: CausalTrace, judgement: Judgement | None, value: str, options: argparse.Namespace) -> None:
    out, width = Path(options.out), options.width or 1200
    with whole_file(out, overwrite=options.overwrite) as part:
        if out.suffix == ".svg":
            part.write_text(heatmap_svg(trace, value=value, width=width, judgement=judgement), encoding="utf-8")
            return
        from PIL import Image

        pixels = draw_heatmap(trace, value=value, width=width, judgement=judgement)
        with part.open("wb") as file:
            Image.fromarray(pixels).save(file, "png")


def _status(folder: SweepFolder, options: argparse.Namespace) -> dict[str, Any]:
    found = status_of(folder)
    return found.as_dict() if options.json else {"text": found.text()}


def _join(folder: SweepFolder, options: argparse.Namespace) -> dict[str, Any]:
    out = Path(options.out)
    if out.suffix == ".parquet":
        from ..sweeps.tables import to_parquet

        rows = to_parquet(folder, out, partial=options.partial, overwrite=options.overwrite)
        return {"out": options.out, "rows": rows, "text": f"wrote {options.out} ({rows:,} rows)"}
    trace = joined(folder, partial=options.partial)
    if out.suffix == ".csv":
        with whole_file(out, overwrite=options.overwrite) as part:
            part.write_text(trace_table(trace), encoding="utf-8", newline="")
    else:
        save_trace(trace, out, overwrite=options.overwrite)
    said = f"wrote {options.out} ({len(trace.prompts):,} prompts, {len(trace.seeds)} seeds)"
    return {"out": options.out, "prompts": len(trace.prompts), "seeds": list(trace.seeds), "text": said}


def _report(folder: SweepFolder, options: argparse.Namespace) -> dict[str, Any]:
    from ..sweeps.report import write_report

    write_report(folder, Path(options.out), partial=options.partial, overwrite=options.overwrite)
    return {"out": options.out, "text": f"wrote {options.out}"}


def _merge(folder: SweepFolder, options: argparse.Namespace) -> dict[str, Any]:
    whole = status_of(folder.merge(SweepFolder.open(Path(options.other))))
    return whole.as_dict() if options.json else {"text": whole.text()}


def _told(quiet: bool) -> Any:
    """A function that says on stderr how far a sweep is."""
    if quiet:
        return None
    say = line_writer()

    def tell(now: SweepProgress) -> None:
        left = "" if now.left is None else f", {duration(now.left)} left"
        lost = f", {now.workers_lost} workers lost" if now.workers_lost else ""
        over = now.done >= now.total
        far = f"tracing: {now.done:,} of {now.total:,} shards"
        say(lambda elapsed: f"{far}, {duration(elapsed)}{'' if over else left}{lost}", over)

    return tell


def _ended(end: SweepEnd) -> dict[str, Any]:
    return {
        "done": end.done,
        "total": end.total,
        "workers_lost": end.workers_lost,
        "damaged": [damage.reason for damage in end.damaged],
        "failed": [{"prompt": shard.prompt, "seeds": list(shard.seeds), "error": said} for shard, said in end.failed],
    }


def _end_lines(end: SweepEnd, out: str) -> list[str]:
    lines = [f"{end.done:,} of {end.total:,} shards are finished in {out}"]
    if end.damaged:
        lines.append(f"{len(end.damaged)} damaged files were made anew; the first: {end.damaged[0].reason}")
    if end.workers_lost:
        lines.append(f"{end.workers_lost} times a worker died, and its shard was traced again")
    lines += [f"not traced: {said}" for _, said in end.failed[:_SHOWN]]
    return lines
