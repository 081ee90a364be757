"""The commands and options of the shell. Standard library only: ``--help`` answers at once."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sequence

from .. import __version__
from .reproduce_arguments import add_reproduce, check_reproduce
from .trace_arguments import add_show, add_sweep, add_trace, check_tracing

DESCRIPTION = """\
Edit a concept of a Stable Diffusion or SDXL checkpoint in closed form (Diff-QuickFix), without ComfyUI: in the CLIP
text encoder, or in the image model where text enters it. Only the few tensors that an edit needs are read, and the
checkpoint itself is never changed. Trace where a model keeps a concept, over many prompts."""
EXAMPLES = """\
examples:
  diff-quickfix edit sd15.safetensors --edit "van gogh -> painting" --out fix.safetensors
  diff-quickfix edit sd15.safetensors --edits list.txt --apply sd15-fixed.safetensors
  diff-quickfix edit sdxl.safetensors --edit "van gogh -> painting" --out fix.safetensors
  diff-quickfix edit sd15.safetensors --edit "van gogh -> painting" --way image-model --apply sd15-fixed.safetensors
  diff-quickfix edit stable-diffusion-v1-5/ --edit "snoopy -> dog" --kind object --json
  diff-quickfix edit stable-diffusion-v1-5/ --edit "van gogh -> painting" --apply sd15-fixed/
  diff-quickfix change sd15.safetensors fix.safetensors --drop "van gogh" --out fix2.safetensors
  diff-quickfix inspect fix.safetensors
  diff-quickfix report other.safetensors fix.safetensors
  diff-quickfix trace stable-diffusion-v1-5/ --prompts prompts.txt --out sweep/ --seeds 0-3 --device cuda
  diff-quickfix sweep status sweep/
  diff-quickfix sweep report sweep/ --out report.html
  diff-quickfix show sweep/
  diff-quickfix reproduce stable-diffusion-v1-4/ --out paper/ --quick --device cuda --dry-run

exit codes: 0 done, 1 error, 2 wrong usage"""
ENCODERS = ("clip_l", "clip_h", "sdxl_clip_l", "sdxl_clip_g")
BREADTHS = ("none", "short", "broad")
SHORT_ENCODERS = {"clip_g": "sdxl_clip_g"}
POSITIONS = {
    "last": "last subject token",
    "padding": "last subject token and padding",
    "later": "last subject token and later",
}
NAMINGS = ("kohya", "comfyui", "diffusers")
WAYS = ("text-encoder", "image-model", "auto")


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options with ``command``; wrong usage ends the program with code 2."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("diff-quickfix", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"diff-quickfix {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    edit = commands.add_parser(
        "edit",
        help="compute an edit; save it as a LoRA, or in a copy of the checkpoint",
        formatter_class=raw,
        description="Compute an edit, print its report, and save it as a LoRA (--out), in a patched copy of the\n"
        "checkpoint (--apply), both, or neither.",
    )
    _add_edit(edit)
    change = commands.add_parser(
        "change",
        help="drop, add or re-weight concepts of an edit file and solve it again",
        formatter_class=raw,
        description="Change the concepts of an edit file and solve it again for MODEL; print the report, and save the\n"
        "new edit as edit does. The file itself stays as it is.",
    )
    _add_change(change)
    inspect = commands.add_parser("inspect", help="show what an edit file holds")
    inspect.add_argument("file", metavar="FILE", help="a file that edit --out or the node Save Edit as LoRA wrote")
    _add_output(inspect)
    report = commands.add_parser("report", help="measure an edit file on a model, its own or another")
    _add_model(report)
    report.add_argument("file", metavar="FILE", help="an edit file")
    report.add_argument("--strength", type=float, default=1.0, help="how much of the edit is applied (default 1)")
    _add_output(report)
    add_trace(commands)
    add_sweep(commands)
    add_show(commands)
    add_reproduce(commands)
    options = parser.parse_args(arguments)
    check_tracing(parser, options)
    check_reproduce(parser, options)
    if not math.isfinite(getattr(options, "strength", 1.0)):
        parser.error(f"--strength {options.strength}: expected a number, such as 1")
    if options.command == "edit":
        _check_edit(edit, options)
    if options.command in ("edit", "change"):
        _check_files(edit if options.command == "edit" else change, options)
    return options


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a safetensors checkpoint (SD 1.x to 3.5, SDXL, Z-Image, Qwen-Image, Krea 2, Flux.1, Chroma, PixArt, "
        "Anima), a file of such an image model alone, a diffusers folder, or a text encoder",
    )
    parser.add_argument(
        "--encoder",
        choices=(*ENCODERS, *SHORT_ENCODERS),
        metavar="NAME",
        help=f"edit this text encoder of a model with several ({', '.join(ENCODERS[2:])}); such models hold a concept "
        "in more places, so that an edit reaches it only in part",
    )
    parser.add_argument(
        "--text-encoder",
        action="append",
        default=[],
        metavar="FILE",
        help="the text encoder of an image model whose file does not hold it; several: again and again",
    )
    parser.add_argument(
        "--device",
        default="cpu",
        metavar="NAME",
        help="where it is computed: cpu (default), cuda, cuda:1, mps; the numbers are fp32 and fp64 on all of them",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FOLDER",
        help="a folder with the text encoder's tokenizer, or a ComfyUI's own folder (default: the model's own, else "
        "the ComfyUI that the pack lies in)",
    )


def _add_edit(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    concepts = parser.add_argument_group("concepts")
    concepts.add_argument(
        "--edit",
        action="append",
        default=[],
        metavar='"SOURCE -> TARGET"',
        dest="edits",
        help='a concept and what it becomes, such as "snoopy -> dog | kind=object | weight=2"; again and again',
    )
    concepts.add_argument("--edits", metavar="FILE", dest="list", help="a list: .txt with one edit a line, .csv, .json")
    concepts.add_argument(
        "--kind", choices=("style", "object", "fact"), default="style", help="what --edit's concepts are (style)"
    )
    _add_settings(parser.add_argument_group("settings"))
    _add_files(parser)


def _add_settings(settings: argparse._ArgumentGroup) -> None:
    settings.add_argument(
        "--preset",
        choices=("guarded", "paper", "auto"),
        default="guarded",
        help="guarded (default): everyday prompts are kept in place; paper: the published settings; auto: guarded, and "
        "lambda is found",
    )
    settings.add_argument(
        "--way",
        choices=WAYS,
        help="what is edited: the text encoder, the image model where text enters it, or (auto) what was measured best "
        "for the model and the kind of concept (default: the text encoder; of SDXL the image model)",
    )
    settings.add_argument(
        "--doors",
        metavar="PATTERN",
        help='the linear maps of the image model to edit, such as "*attn2.to_v" or "output_blocks.*" (default: the '
        "values of all cross-attentions, and SDXL's pooled vector); means --way image-model",
    )
    settings.add_argument(
        "--layer", type=int, default=0, help="self-attention layer of the text encoder (default 0, the causal state)"
    )
    settings.add_argument("--lambda", type=float, dest="lam", help="how strongly the old weight is kept")
    settings.add_argument(
        "--positions",
        choices=POSITIONS,
        help="edit the last subject token alone, or what stands behind it in the prompt (later) and the padding too "
        "(default: padding for text encoders; for the image model, what the kind of concept wants)",
    )
    settings.add_argument(
        "--preserve",
        action="append",
        default=[],
        metavar="PROMPT",
        help="a prompt that must keep its meaning, besides the preset's; may be given several times",
    )
    settings.add_argument(
        "--hold",
        action="append",
        default=[],
        metavar="PROMPT",
        help="a prompt that must not move at all; may be given several times",
    )
    settings.add_argument(
        "--breadth",
        choices=BREADTHS,
        default="none",
        help="a list of names to keep, less what names a concept: short, 550 well-known artists, things, looks and "
        "colors; broad, 5,000 names of everything that people name. The text encoder reads all of it before the edit, "
        "which takes minutes for a large one (default none)",
    )


def _add_change(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument("file", metavar="FILE", help="an edit file")
    changes = parser.add_argument_group("changes, made in this order; each may be given several times")
    changes.add_argument("--drop", action="append", default=[], metavar="SOURCE", help="a concept to take out")
    changes.add_argument(
        "--reweight", action="append", default=[], metavar='"SOURCE: WEIGHT"', help="a concept that counts otherwise"
    )
    changes.add_argument(
        "--add",
        action="append",
        default=[],
        metavar='"SOURCE -> TARGET"',
        help='a concept to add, such as "snoopy -> dog | kind=object"',
    )
    _add_files(parser)


def _add_files(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files")
    files.add_argument("--out", metavar="FILE", help="save the edit as a LoRA for any UI")
    files.add_argument(
        "--apply",
        metavar="PATH",
        help="write a copy of the checkpoint with the edit in it; all other tensors and the metadata stay "
        "bit-identical. Of a folder: a new folder; or the edited part's file alone, if PATH ends in .safetensors",
    )
    files.add_argument(
        "--link",
        action="store_true",
        help="a new folder shares all but the edited part with MODEL by hard links: no disk space, but what writes "
        "into a file of the one changes the other",
    )
    files.add_argument("--strength", type=float, default=1.0, help="how much of the edit --apply puts in (default 1)")
    files.add_argument("--naming", choices=NAMINGS, default="kohya", help="names in the LoRA")
    files.add_argument("--energy", type=float, default=1.0, help="share of the edit's energy in the LoRA (default 1)")
    files.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32", help="numbers in the LoRA")
    files.add_argument("--overwrite", action="store_true", help="replace files that exist (never MODEL itself)")
    _add_output(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--quiet", action="store_true", help="no progress and no warnings on stderr")


def _check_edit(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.doors is not None and options.way not in (None, "image-model"):
        parser.error(f"--doors is about the image model, --way {options.way} is not; expected one of them")
    if options.encoder and (options.doors is not None or options.way not in (None, "text-encoder")):
        parser.error("--encoder is about the text encoder, --doors and --way are about others; expected one of them")
    if not options.edits and not options.list:
        parser.error('nothing to edit: give --edit "van gogh -> painting", or --edits FILE')
    for text in options.edits:
        # Any arrow will do; which signs are arrows, the reader of lists knows.
        source, arrow, target = text.partition(next((sign for sign in ("->", "=>") if sign in text), "->"))
        if text.isascii() and not (arrow and source.strip() and target.strip()):
            parser.error(f'--edit {text!r}: expected "SOURCE -> TARGET", such as "van gogh -> painting"')


def _check_files(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    for name in ("out", "apply"):
        path, folder = getattr(options, name), name == "apply" and os.path.isdir(options.model)
        if path and not path.endswith(".safetensors") and not folder:
            parser.error(f"--{name} {path!r}: expected a name that ends in .safetensors")
    if options.link and (not options.apply or options.apply.endswith(".safetensors")):
        parser.error("--link is about --apply with a folder, which it copies; expected --apply FOLDER")
    if not 0 < options.energy <= 1:
        parser.error(f"--energy {options.energy}: expected a share above 0, up to 1")
