"""The command of the shell that reproduces the paper: ``reproduce``. Standard library only."""

from __future__ import annotations

import argparse
from typing import Any

from .trace_arguments import add_dtype, add_pipeline, add_place, seeds_of

ATTRIBUTES = ("object", "style", "color", "action", "viewpoint", "count")
_COUNTS = ("prompts", "captions", "concepts", "steps", "size")


def add_reproduce(commands: Any) -> None:
    """The command ``reproduce``."""
    parser = commands.add_parser(
        "reproduce",
        help="the paper's experiments on your own weights, with a verdict on each of its claims",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Trace the text encoder and the image model over the paper's attributes, edit at each layer, edit\n"
        "the published concepts one by one and ten at once, and write report.html and result.json. It first says\n"
        "how many pictures that is and about how long it takes. Run it again to go on with what is not finished.",
    )
    add_pipeline(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="new, or begun by the same command")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="some layers, sites and prompts, one seed and 10 steps in place of the published 50",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done and how long, and stop")
    parser.add_argument(
        "--scorer", metavar="clip:FOLDER", help="CLIPScore by a CLIP in a folder (default: distance of latents alone)"
    )
    size = parser.add_argument_group("how much (defaults are those of --quick, or of the whole)")
    size.add_argument(
        "--attributes", metavar="LIST", help=f"which are traced, divided by commas (default: {','.join(ATTRIBUTES)})"
    )
    size.add_argument("--prompts", type=int, metavar="N", help="for each attribute, at most 24")
    size.add_argument("--captions", type=int, metavar="N", help="of each edited concept, and others, at most 8 each")
    size.add_argument("--concepts", type=int, metavar="N", help="how many are edited one by one; 0: none")
    size.add_argument("--seeds", type=seeds_of, metavar="LIST", help='of the noise, such as "0-3"')
    size.add_argument("--steps", type=int, metavar="N", help="sampling steps")
    size.add_argument("--size", type=int, metavar="N", help="side of the pictures, in pixels (default: the model's)")
    add_place(parser)
    add_dtype(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")


def check_reproduce(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End the program with code 2 where its options do not fit."""
    if options.command != "reproduce":
        return
    for name in _COUNTS:
        value = getattr(options, name)
        least = 0 if name == "concepts" else 1
        if value is not None and value < least:
            parser.error(f"--{name} {value}: expected at least {least}")
    if options.scorer is not None and not (options.scorer.startswith("clip:") and options.scorer[5:]):
        parser.error(f"--scorer {options.scorer!r}: expected clip: and a folder's name")
    asked = ATTRIBUTES if options.attributes is None else tuple(filter(None, options.attributes.split(",")))
    unknown = [name for name in asked if name not in ATTRIBUTES]
    if unknown or not asked:
        found = ", ".join(unknown) or "nothing"
        parser.error(f"--attributes {options.attributes!r} names {found}; expected some of {', '.join(ATTRIBUTES)}")
    options.attributes = tuple(dict.fromkeys(asked))
