"""What the commands do."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from ..quickfix import (
    ENCODERS,
    EditFile,
    EditSettings,
    LowRank,
    TextEncoderFile,
    WeightEdit,
    compute_edit,
    measure_edit,
    measure_final,
    open_text_encoder,
    parse_changes,
    preset,
    read_edit_file,
    require_fit,
    weight_hash,
)
from ..quickfix.edit import report_at
from .arguments import POSITIONS, SHORT_ENCODERS
from .concepts import asked_concepts
from .output import check_targets, described, print_json, stored, write_edit
from .progress import progress

_SHOWN = 20


def edit(options: argparse.Namespace) -> None:
    """Compute an edit, print its report, save it."""
    asked = asked_concepts(options.edits, options.list, options.kind)
    encoder = open_text_encoder(options.model, _encoder_name(options.encoder))
    check_targets(encoder, options)
    _warn(encoder, options.quiet, asked.notes)
    tokenizer = encoder.tokenizer(options.tokenizer)
    told = progress("computing", options.quiet)
    computed = compute_edit(encoder.tower, tokenizer, asked.concepts, _settings(options), progress=told)
    measured = report_at(encoder.tower, tokenizer, computed, options.strength)
    write_edit(encoder, computed, stored(encoder, computed, measured, options.strength), options)


def change(options: argparse.Namespace) -> None:
    """Change the concepts of an edit file, print the new edit's report, save it."""
    found = read_edit_file(options.file).edit
    changes = parse_changes(*("\n".join(lines) for lines in (options.drop, options.reweight, options.add)))
    encoder = open_text_encoder(options.model, _encoder_name(options.encoder) or _fitting(found))
    check_targets(encoder, options)
    _warn(encoder, options.quiet)
    tokenizer = encoder.tokenizer(options.tokenizer)
    told = progress("computing", options.quiet)
    require_fit(encoder.tower, found)
    concepts = changes.made_on(found.concepts, tokenizer)
    computed = compute_edit(encoder.tower, tokenizer, concepts, found.settings, progress=told)
    measured = report_at(encoder.tower, tokenizer, computed, options.strength)
    write_edit(encoder, computed, stored(encoder, computed, measured, options.strength), options)


def inspect(options: argparse.Namespace) -> None:
    """Show what an edit file holds."""
    file = read_edit_file(options.file)
    if options.json:
        print_json(
            described(file.edit)
            | {
                "file": options.file,
                "naming": file.naming,
                "version": file.version,
                "energy": file.energy,
                "report": file.edit.report.as_dict(),
            }
        )
        return
    print(_inspection(options.file, file))


def report(options: argparse.Namespace) -> None:
    """Measure an edit file on a model."""
    found = read_edit_file(options.file).edit
    encoder = open_text_encoder(options.model, _encoder_name(options.encoder) or _fitting(found))
    _warn(encoder, options.quiet)
    tokenizer = encoder.tokenizer(options.tokenizer)
    measured = measure_edit(encoder.tower, tokenizer, found, options.strength)
    update = LowRank(found.up * options.strength, found.down)
    measured = measured.with_final(measure_final(encoder.tower, found.settings.layer, update, tokenizer))
    measured = stored(encoder, found, measured, options.strength)
    own = weight_hash(encoder.tower.weight(found.weight_name)) == found.base
    if options.json:
        print_json({"model": options.model, "file": options.file, "own_model": own, "report": measured.as_dict()})
        return
    print(measured.text())
    print(f"model: {'the one' if own else 'not the one'} that the edit was computed from")


def _encoder_name(name: str | None) -> str | None:
    return SHORT_ENCODERS.get(name, name) if name else None


def _fitting(found: WeightEdit) -> str | None:
    """The edit's own encoder where it is one of several; elsewhere the model's only one will do."""
    return None if ENCODERS[found.encoder].causal else found.encoder


def _settings(options: argparse.Namespace) -> EditSettings:
    base = preset(options.preset)
    lam = base.lam if options.lam is None else options.lam
    changed = dataclasses.replace(base, layer=options.layer, lam=lam, positions=POSITIONS[options.positions])
    return changed.keeping(options.preserve).keeping(options.hold, "hard")


def _warn(encoder: TextEncoderFile, quiet: bool, notes: Sequence[str] = ()) -> None:
    if not ENCODERS[encoder.encoder].causal:
        notes = (
            *notes,
            f"{encoder.encoder} is one of SDXL's text encoders. They hold no single causal state (arXiv 2405.01008): "
            "the edit may well leave the concept in the pictures.",
        )
    for note in () if quiet else notes:
        print(f"diff-quickfix: warning: {note}", file=sys.stderr)


def _inspection(path: str, file: EditFile) -> str:
    found, settings = file.edit, file.edit.settings
    kept = "" if file.energy == 1 else f", {file.energy:.2%} of its energy"
    lines = [
        f"{path}: an edit of {found.encoder} ({ENCODERS[found.encoder].family}), saved by version {file.version}",
        f"weight: {found.weight_name}, rank {found.rank}{kept}, {file.naming} names",
        f"base weight: sha256 {found.base or 'not known'}",
        f"settings: layer {settings.layer}, lambda {settings.lam}, {settings.positions}, {len(settings.preserve)} "
        f"preserved prompts at weight {settings.preserve_weight:g}, {len(settings.hold)} held",
        f"concepts: {len(found.concepts)}",
        *(f"  {concept.source} -> {concept.target} ({concept.kind})" for concept in found.concepts[:_SHOWN]),
    ]
    if len(found.concepts) > _SHOWN:
        lines.append(f"  and {len(found.concepts) - _SHOWN} more; --json lists them all")
    return "\n".join([*lines, "report:", *(f"  {line}" for line in found.report.text().splitlines())])
