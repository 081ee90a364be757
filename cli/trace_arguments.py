"""The commands of the shell that trace: ``trace``, ``sweep`` and ``show``. Standard library only."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

EXECUTORS = ("serial", "process", "ray")
PICTURES, TABLES = (".png", ".svg"), (".safetensors", ".parquet", ".csv")
_RAW = argparse.RawDescriptionHelpFormatter
# Options that are settings of the tracer, by their names there.
SETTINGS = {
    "component": "component",
    "sites": "sites",
    "window": "window",
    "noise": "noise",
    "replaced_by": "replaced_by",
    "draws": "draws",
    "controls": "controls",
    "steps": "steps",
    "guidance": "guidance",
    "height": "height",
    "width": "width",
    "score": "score",
    "dtype": "dtype",
}


def add_trace(commands: Any) -> argparse.ArgumentParser:
    """The command ``trace``."""
    trace: argparse.ArgumentParser = commands.add_parser(
        "trace",
        help="trace many prompts into a folder; run it again to go on",
        formatter_class=_RAW,
        description="Trace prompts in which each [subject] is hidden and every site restored in turn. The folder\n"
        "holds a plan and one file a shard (a prompt with a block of seeds): killed at any time, the same command\n"
        "goes on, and with more prompts or seeds it only adds shards. Give settings as they were, or another folder.",
    )
    add_pipeline(trace)
    trace.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help="one prompt a line, its subject in [brackets]; # begins a comment",
    )
    trace.add_argument("--out", required=True, metavar="FOLDER", help="the sweep's folder, new or begun")
    trace.add_argument(
        "--seeds", type=seeds_of, default=(0,), metavar="LIST", help='seeds of the noise, such as "0-3,7" (default 0)'
    )
    trace.add_argument(
        "--seed-block", type=int, default=1, metavar="N", help="seeds of one shard: minutes of work (default 1)"
    )
    _add_asked(trace.add_argument_group("what is traced (defaults are the tracer's)"))
    _add_run(trace.add_argument_group("where it runs"))
    trace.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    trace.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return trace


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """The model of the commands that trace."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help='a folder as diffusers keeps pipelines, or a demo model: "Shapes", "Shapes XL", "Shapes DiT"',
    )


def add_place(group: Any) -> None:
    """The option ``--device`` of the commands that trace."""
    group.add_argument("--device", default="cpu", metavar="NAME", help="cpu (default), cuda, cuda:1, mps")


def add_dtype(group: Any) -> None:
    """The option ``--dtype`` of the commands that trace."""
    group.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="numbers of the model")


def _add_asked(asked: Any) -> None:
    asked.add_argument("--component", choices=("text", "image"), help="the text encoders, or the image model")
    asked.add_argument(
        "--sites", metavar="PATTERNS", help='shell patterns of sites, such as "text.[0-3].*, *.self_attn"'
    )
    asked.add_argument("--window", type=int, metavar="N", help="neighbouring sites restored together")
    asked.add_argument("--noise", type=float, metavar="X", help="noise on the subject, in stds of its embeddings")
    asked.add_argument("--replaced-by", metavar="WORDS", help="words in the subject's place, instead of noise")
    asked.add_argument("--draws", type=int, metavar="N", help="draws of the noise")
    asked.add_argument("--controls", type=int, metavar="N", help="null restorations for each run")
    asked.add_argument("--steps", type=int, metavar="N", help="sampling steps")
    asked.add_argument("--guidance", type=float, metavar="X", help="guidance scale")
    asked.add_argument("--height", type=int, metavar="N", help="of the pictures, in pixels")
    asked.add_argument("--width", type=int, metavar="N", help="of the pictures, in pixels")
    asked.add_argument("--score", metavar="NAME", help='"latent", or "clip:FOLDER"')
    add_dtype(asked)
    asked.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assigned,
        metavar="NAME=VALUE",
        help="any other setting of the tracer; again and again",
    )


def _add_run(run: Any) -> None:
    add_place(run)
    run.add_argument("--executor", choices=EXECUTORS, help="this process (default), processes of this machine, or Ray")
    run.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="shards traced at a time; more than one means --executor process",
    )
    run.add_argument(
        "--gpus", type=float, default=0.0, metavar="X", help="with Ray: GPUs for each worker, such as 1 or 0.5"
    )
    run.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a Ray cluster (default: one that Ray finds, else one on this machine)",
    )
    run.add_argument(
        "--part", type=_part, metavar="K/N", help="only the K-th of N parts, for machines that share a folder"
    )


def add_sweep(commands: Any) -> None:
    """The command ``sweep`` with its actions."""
    sweep = commands.add_parser("sweep", help="see how far a sweep is; join, merge or report it")
    actions = sweep.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="how far it is, and how long it will take")
    join = actions.add_parser("join", help="write one trace file, or a table, of all shards")
    report = actions.add_parser("report", help="write one HTML page: maps, tables, settings; it opens offline")
    merge = actions.add_parser("merge", help="take in the shards of another folder of the same plan")
    for parser in (status, join, report, merge):
        parser.add_argument("folder", metavar="FOLDER", help="the folder that trace --out wrote")
    merge.add_argument("other", metavar="OTHER", help="the other folder, which stays as it is")
    join.add_argument(
        "--out", required=True, metavar="FILE", help="ends in .safetensors (a trace file), .parquet or .csv"
    )
    report.add_argument("--out", required=True, metavar="FILE", help="ends in .html")
    for parser in (join, report):
        parser.add_argument(
            "--partial", action="store_true", help="take what is there: the prompts with all their seeds"
        )
        parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    for parser in (status, join, report, merge):
        parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def add_show(commands: Any) -> None:
    """The command ``show``."""
    show = commands.add_parser("show", help="draw a trace as a heat map: in the terminal, or to a picture")
    show.add_argument("file", metavar="FILE", help="a trace file, or the folder of a sweep")
    show.add_argument("--out", metavar="FILE", help="a picture, .png or .svg (default: the terminal)")
    show.add_argument(
        "--value",
        choices=("effect", "recovery"),
        default="effect",
        help="the indirect effect (default), or its share of the total effect",
    )
    show.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="of the picture in pixels (1200), or of the map in letters (the terminal's)",
    )
    show.add_argument("--overwrite", action="store_true", help="replace a file that exists")


def check_tracing(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with code 2 where options of these commands do not fit (``parser`` is the whole shell's)."""
    if options.command == "trace":
        for name in ("workers", "seed_block"):
            if getattr(options, name) < 1:
                parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: expected at least 1")
        if options.executor is None:
            options.executor = "process" if options.workers > 1 else "serial"
        if options.executor == "serial" and options.workers > 1:
            parser.error(
                f"--executor serial traces one shard at a time; --workers {options.workers} needs process or ray"
            )
        if options.executor != "ray" and (options.gpus or options.ray_address):
            parser.error("--gpus and --ray-address are about Ray; expected --executor ray")
        if options.noise is not None and options.replaced_by is not None:
            parser.error("--noise and --replaced-by both say what hides the subject; expected one of them")
    wanted = {"join": TABLES, "report": (".html",), "show": PICTURES}.get(getattr(options, "action", options.command))
    out = getattr(options, "out", None)
    if wanted and out and not out.endswith(wanted):
        parser.error(f"--out {out!r}: expected a name that ends in {' or '.join(wanted)}")


def seeds_of(text: str) -> tuple[int, ...]:
    """Seeds out of "0-3,7"."""
    seeds: list[int] = []
    for part in text.split(","):
        found = re.match(r"\s*(\d{1,15})\s*(?:-\s*(\d{1,15})\s*)?$", part)
        if not found or len(range(int(found[1]), int(found[2] or found[1]) + 1)) not in range(1, 1_000_001):
            raise argparse.ArgumentTypeError(f"{text!r}: expected seeds such as 0-3,7")
        seeds += range(int(found[1]), int(found[2] or found[1]) + 1)
    return tuple(seeds)


def _part(text: str) -> tuple[int, int]:
    found = re.match(r"(\d{1,6})/(\d{1,6})$", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r}: expected such as 2/8")
    return int(found[1]), int(found[2])


def _assigned(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE")
    try:
        return name.strip(), json.loads(value)
    except ValueError:
        return name.strip(), value
