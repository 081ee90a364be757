"""What the commands do."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..quickfix import (
    ENCODERS,
    PRECISIONS,
    EditFile,
    EditReport,
    EditSettings,
    LowRank,
    TextEncoderFile,
    WeightEdit,
    compute_edit,
    measure_edit,
    measure_final,
    open_text_encoder,
    preset,
    read_edit_file,
    save_edit,
    to_json,
    weight_hash,
)
from .arguments import POSITIONS, SHORT_ENCODERS
from .concepts import asked_concepts
from .progress import progress

_SHOWN = 20


def edit(options: argparse.Namespace) -> None:
    """Compute an edit, print its report, save it."""
    asked = asked_concepts(options.edits, options.list, options.kind)
    encoder = open_text_encoder(options.model, _encoder_name(options.encoder))
    for path in filter(None, (options.out, options.apply)):
        _check_target(Path(path), encoder, options.overwrite)
    _warn(encoder, options.quiet, asked.notes)
    tokenizer = encoder.tokenizer(options.tokenizer)
    told = progress("computing", options.quiet)
    computed = compute_edit(encoder.tower, tokenizer, asked.concepts, _settings(options), progress=told)
    report = _stored(encoder, computed, computed.report, options.strength)
    if options.out:
        save_edit(
            computed, options.out, naming=options.naming, energy=options.energy, dtype=PRECISIONS[options.dtype],
            overwrite=options.overwrite,
        )  # fmt: skip
    if options.apply:
        _write_patched(encoder, computed, options)
    if options.json:
        _print_json(_described(computed) | {
            "model": options.model, "tensor": encoder.stored_name(computed.weight_name), "report": report.as_dict(),
            "out": options.out, "apply": options.apply,
        })  # fmt: skip
        return
    print(report.text())
    for path in filter(None, (options.out, options.apply)):
        print(f"wrote {path} ({os.path.getsize(path):,} bytes)")
    if not options.out and not options.apply:
        print("nothing was written; --out saves the edit, --apply a patched copy of the checkpoint")


def inspect(options: argparse.Namespace) -> None:
    """Show what an edit file holds."""
    file = read_edit_file(options.file)
    if options.json:
        _print_json(_described(file.edit) | {
            "file": options.file, "naming": file.naming, "version": file.version, "energy": file.energy,
            "report": file.edit.report.as_dict(),
        })  # fmt: skip
        return
    print(_inspection(options.file, file))


def report(options: argparse.Namespace) -> None:
    """Measure an edit file on a model."""
    found = read_edit_file(options.file).edit
    encoder = open_text_encoder(options.model, _encoder_name(options.encoder) or _fitting(options.model, found))
    _warn(encoder, options.quiet)
    tokenizer = encoder.tokenizer(options.tokenizer)
    measured = measure_edit(encoder.tower, tokenizer, found, options.strength)
    update = LowRank(found.up * options.strength, found.down)
    measured = measured.with_final(measure_final(encoder.tower, found.settings.layer, update, tokenizer))
    measured = _stored(encoder, found, measured, options.strength)
    own = weight_hash(encoder.tower.weight(found.weight_name)) == found.base
    if options.json:
        _print_json({"model": options.model, "file": options.file, "own_model": own, "report": measured.as_dict()})
        return
    print(measured.text())
    print(f"model: {'the one' if own else 'not the one'} that the edit was computed from")


def _encoder_name(name: str | None) -> str | None:
    return SHORT_ENCODERS.get(name, name) if name else None


def _fitting(model: str, found: WeightEdit) -> str | None:
    """The edit's own encoder where it is one of several; elsewhere the model's only one will do."""
    return None if ENCODERS[found.encoder].causal else found.encoder


def _settings(options: argparse.Namespace) -> EditSettings:
    base = preset(options.preset)
    lam = base.lam if options.lam is None else options.lam
    changed = dataclasses.replace(base, layer=options.layer, lam=lam, positions=POSITIONS[options.positions])
    return changed.keeping(options.preserve).keeping(options.hold, "hard")


def _check_target(path: Path, encoder: TextEncoderFile, overwrite: bool) -> None:
    """Refuse, before any work, what could not be written at its end."""
    if path.exists() and path.samefile(encoder.file.path):
        raise ValueError(f"{path} is the model itself, which stays as it is. Choose another name.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already. Choose another name, or pass --overwrite.")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"There is no folder {path.absolute().parent}.")


def _warn(encoder: TextEncoderFile, quiet: bool, notes: Sequence[str] = ()) -> None:
    if not ENCODERS[encoder.encoder].causal:
        notes = (
            *notes,
            f"{encoder.encoder} is one of SDXL's text encoders. They hold no single causal state (arXiv 2405.01008): "
            "the edit may well leave the concept in the pictures.",
        )
    for note in () if quiet else notes:
        print(f"diff-quickfix: warning: {note}", file=sys.stderr)


def _stored(encoder: TextEncoderFile, found: WeightEdit, report: EditReport, strength: float) -> EditReport:
    """The report, with what rounding to the file's own dtype costs."""
    stored = encoder.tower.weights[found.weight_name]
    return report.with_storage(stored.float(), found.delta(strength), stored.dtype)


def _write_patched(encoder: TextEncoderFile, found: WeightEdit, options: argparse.Namespace) -> None:
    patched = encoder.tower.weight(found.weight_name) + found.delta(options.strength)
    encoder.file.copy(
        options.apply,
        {encoder.stored_name(found.weight_name): patched},
        overwrite=options.overwrite,
        progress=progress("copying", options.quiet),
    )


def _described(found: WeightEdit) -> dict[str, Any]:
    return {
        "encoder": found.encoder, "weight": found.weight_name, "rank": found.rank, "base": found.base,
        "concepts": to_json(found.concepts), "settings": to_json(found.settings),
    }  # fmt: skip


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


def _print_json(fields: dict[str, Any]) -> None:
    print(json.dumps(fields, indent=2))
