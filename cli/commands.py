"""What the commands do."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence

from ..families.doors import family_named
from ..quickfix import (
    ENCODERS,
    EditFile,
    WeightEdit,
    common_kind,
    parse_changes,
    read_edit_file,
)
from .concepts import asked_concepts
from .models import open_for_edit, open_for_file
from .output import check_targets, described, print_json, write_edit
from .progress import progress
from .reproducing import reproduce
from .tracing import show, sweep, trace

__all__ = ["change", "edit", "inspect", "report", "reproduce", "show", "sweep", "trace"]
_SHOWN = 20


def edit(options: argparse.Namespace) -> None:
    """Compute an edit, print its report, save it."""
    asked = asked_concepts(options.edits, options.list, options.kind)
    model, settings, said = open_for_edit(options, common_kind(asked.concepts))
    check_targets(model, options)
    _warn((*asked.notes, *model.notes), options.quiet)
    computed = model.computed(asked.concepts, settings, progress("computing", options.quiet))
    write_edit(model, computed, model.report_at(computed, options.strength), options, said)


def change(options: argparse.Namespace) -> None:
    """Change the concepts of an edit file, print the new edit's report, save it."""
    found = read_edit_file(options.file).edit
    changes = parse_changes(*("\n".join(lines) for lines in (options.drop, options.reweight, options.add)))
    model = open_for_file(options, found)
    check_targets(model, options)
    _warn(model.notes, options.quiet)
    concepts = changes.made_on(found.concepts, model.tokenizer)
    computed = model.computed(concepts, found.settings, progress("computing", options.quiet))
    write_edit(model, computed, model.report_at(computed, options.strength), options)


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
    model = open_for_file(options, found)
    _warn(model.notes, options.quiet)
    measured, own = model.measured(found, options.strength), model.made_here(found)
    if options.json:
        print_json({"model": options.model, "file": options.file, "own_model": own, "report": measured.as_dict()})
        return
    print(measured.text())
    print(f"model: {'the one' if own else 'not the one'} that the edit was computed from")


def _warn(notes: Sequence[str], quiet: bool) -> None:
    for note in () if quiet else notes:
        print(f"diff-quickfix: warning: {note}", file=sys.stderr)


def _inspection(path: str, file: EditFile) -> str:
    found, settings = file.edit, file.edit.settings
    kept = "" if file.energy == 1 else f", {file.energy:.2%} of its energy"
    lines = [
        f"{path}: an edit of {_edited(found)}, saved by version {file.version}",
        f"weight: {found.weight_name}, rank {found.rank}{kept}, {file.naming} names",
        *(f"  {line}" for line in _door_lines(found)),
        f"base weight: sha256 {found.base or 'not known'}",
        f"settings: layer {settings.layer}, lambda {settings.lam}, {settings.positions}, {len(settings.preserve)} "
        f"preserved prompts at weight {settings.preserve_weight:g}, {len(settings.hold)} held",
        f"concepts: {len(found.concepts)}",
        *(f"  {concept.source} -> {concept.target} ({concept.kind})" for concept in found.concepts[:_SHOWN]),
    ]
    if len(found.concepts) > _SHOWN:
        lines.append(f"  and {len(found.concepts) - _SHOWN} more; --json lists them all")
    return "\n".join([*lines, "report:", *(f"  {line}" for line in found.report.text().splitlines())])


def _edited(edit: WeightEdit) -> str:
    if edit.of_states:
        return f"the image model of {family_named(edit.encoder).title}"
    names = " and ".join(part.encoder for part in edit.parts)
    return f"{names} ({ENCODERS[edit.encoder].family})"


def _door_lines(edit: WeightEdit) -> list[str]:
    """How many doors of each kind an edit changes, and the first of them."""
    kinds = Counter(update.door.kind for update in edit.doors)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return [f"at {len(edit.doors)} doors ({counts}), the first {edit.doors[0].door.name}"] if edit.doors else []
