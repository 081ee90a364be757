"""Lists of concepts as text, CSV and JSON.

Text has one edit a line. A line that begins with # is a comment; without ``->`` the kind's default target is taken;
settings follow in any order, and ``template`` may come several times::

    # artists
    van gogh -> painting
    snoopy -> dog | kind=object | weight=2 | template=a drawing of {x} | template={x} on grass

CSV has a first line that names its columns: source, target, kind, weight, templates (several of them apart by ``|``),
in any order, source alone being needed. JSON is a list of objects with the same names, templates being a list.

Files come from other people: size, encoding, names and types are checked, and an error says where.
"""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...output.json_records import RecordError, from_json, parse
from ...text.prompts import PromptError
from .concept import ConceptEdit

LARGEST_FILE = 8 * 2**20
COLUMNS = ("source", "target", "kind", "weight", "templates")
_ARROW, _BAR = "->", "|"
_OPTIONS = ("kind", "weight", "template")


class ConceptListError(PromptError):
    """A list of concepts that cannot be read; the message says where."""


@dataclass(frozen=True)
class ConceptList:
    """Concepts, and what was noticed about them.

    Attributes:
        concepts: each once, in order.
        notes: a sentence for each repeated concept.
    """

    concepts: tuple[ConceptEdit, ...]
    notes: tuple[str, ...] = ()


def parse_concepts(text: str) -> ConceptList:
    """The concepts of a text, one edit a line; see the module's text for the form.

    Raises:
        ConceptListError: a line that cannot be read, with its number and column; one source with two targets, or
            twice with different settings.
    """
    return _gathered((f"line {number}", partial(_line, line, number)) for number, line in entries(text))


def entries(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are neither empty nor comments, which begin with #, each with its number from 1.

    Raises:
        ConceptListError: a control character, with its line and column.
    """
    lines = enumerate(_clean(text).split("\n"), 1)
    return [(number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")]


def concepts_from_csv(text: str) -> ConceptList:
    """The concepts of a CSV table with commas, semicolons or tabs (see :func:`parse_concepts` for the errors)."""
    text = _clean(text)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [name.strip().casefold() for name in next(reader, [])]
        _check_columns(columns)
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ConceptListError(f"line {reader.line_num}: this is no CSV table ({error}).") from error
    return _gathered((f"line {number}", partial(_row, columns, row, number)) for number, row in rows)


def concepts_from_json(text: str) -> ConceptList:
    """The concepts of a JSON list of objects (see :func:`parse_concepts` for the errors)."""
    try:
        entries = parse(_clean(text))
    except RecordError as error:
        raise ConceptListError(f"This is {error}; expected a list of objects with a source and a target.") from error
    if not isinstance(entries, list):
        raise ConceptListError("Expected a list of objects with a source and a target.")
    return _gathered((f"entry {number}", partial(_entry, entry, number)) for number, entry in enumerate(entries, 1))


READERS: dict[str, Callable[[str], ConceptList]] = {
    ".csv": concepts_from_csv,
    ".json": concepts_from_json,
    ".txt": parse_concepts,
}


def read_concepts(path: Path | str) -> ConceptList:
    """The concepts of a file in UTF-8, by its suffix: .csv, .json or .txt.

    Raises:
        ConceptListError: no such file, an unknown suffix, a file of over 8 MB or not in UTF-8, or as the formats'
            own readers.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ConceptListError(f"{path.name} ends in {path.suffix!r}; expected one of {', '.join(READERS)}.")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise ConceptListError(f"{path.name} cannot be read ({error.strerror}).") from error
    if len(content) > LARGEST_FILE:
        raise ConceptListError(f"{path.name} is larger than {LARGEST_FILE // 2**20} MB; is it a list of concepts?")
    try:
        return reader(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConceptListError(f"{path.name}, line {line} is not in UTF-8; save the file in UTF-8.") from error
    except ConceptListError as error:
        raise ConceptListError(f"{path.name}, {error}") from error


def combine(*lists: Sequence[ConceptEdit]) -> ConceptList:
    """Several lists as one (see :func:`parse_concepts` for repeats and contradictions)."""
    every = [concept for concepts in lists for concept in concepts]
    return _gathered((f"concept {number}", partial(_itself, concept)) for number, concept in enumerate(every, 1))


def text_of_concepts(concepts: Iterable[ConceptEdit]) -> str:
    """A text that :func:`parse_concepts` reads back.

    Raises:
        ConceptListError: a name or a template that a line cannot hold.
    """
    return "".join(f"{_written(concept)}\n" for concept in concepts)


def _written(concept: ConceptEdit) -> str:
    templates = concept.templates if concept.templates != _default_templates(concept) else ()
    parts = [f"{concept.source} {_ARROW} {concept.target}"]
    parts += [f"kind={concept.kind}"] * (concept.kind != "style")
    parts += [f"weight={concept.weight!r}"] * (concept.weight != 1)
    parts += [f"template={template}" for template in templates or ()]
    line = f" {_BAR} ".join(parts)
    try:
        held = parse_concepts(line).concepts == (concept,)
    except PromptError:
        held = False
    if not held:
        raise ConceptListError(f"The concept {concept.source!r} cannot be written as a line; use JSON.")
    return line


def _default_templates(concept: ConceptEdit) -> tuple[str, ...] | None:
    return None if concept.kind == "custom" else ConceptEdit("a", "b", concept.kind).templates


def _clean(text: str) -> str:
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        for column, character in enumerate(line, 1):
            if character != "\t" and unicodedata.category(character) in ("Cc", "Cs"):
                raise ConceptListError(
                    f"line {number}, column {column}: found the control character {character!r}; this is no text."
                )
    return text


def _line(line: str, number: int) -> ConceptEdit:
    names, *options = line.split(_BAR)
    source, arrow, target = names.partition(_ARROW)
    if _ARROW in target:
        column = len(source) + 3 + target.index(_ARROW)
        raise ConceptListError(f"line {number}, column {column}: a second {_ARROW}; expected a single one.")
    if arrow and not target.strip():
        column = len(source) + 1 + len(_ARROW)
        raise ConceptListError(f"line {number}, column {column}: nothing stands after {_ARROW}; name a target.")
    found: dict[str, str] = {}
    templates: list[str] = []
    end = len(names)
    for option in options:
        column = end + 2 + len(option) - len(option.lstrip())
        end += len(option) + 1
        name, equals, value = option.partition("=")
        name, value = name.strip().casefold(), value.strip()
        if not equals or name not in _OPTIONS:
            raise ConceptListError(
                f"line {number}, column {column}: cannot read {option.strip()[:80]!r}; expected one of "
                + ", ".join(f"{known}=..." for known in _OPTIONS)
            )
        if name in found:
            raise ConceptListError(f"line {number}, column {column}: {name} is set twice; keep one.")
        if name == "template":
            templates.append(value)
        else:
            found[name] = value
    return _concept(source, target, found.get("kind", ""), found.get("weight", ""), templates)


def _check_columns(columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown or "source" not in columns:
        found = repr(unknown[0][:80]) if unknown else "no source"
        raise ConceptListError(
            f"line 1: found {found} among the column names; expected a first line with these, of which source alone is "
            f"needed: {', '.join(COLUMNS)}"
        )
    for name in columns:
        if columns.count(name) > 1:
            raise ConceptListError(f"line 1: the column {name} is there twice; keep one.")


def _row(columns: Sequence[str], row: Sequence[str], number: int) -> ConceptEdit:
    if len(row) > len(columns) and any(cell.strip() for cell in row[len(columns) :]):
        raise ConceptListError(
            f"line {number}, column {len(columns) + 1}: found {len(row)} cells for {len(columns)} columns; put a text "
            "that holds the separator into double quotes."
        )
    cells = dict(zip(columns, row, strict=False))
    templates = [template.strip() for template in cells.get("templates", "").split(_BAR) if template.strip()]
    source, target, kind, weight = (cells.get(name, "") for name in COLUMNS[:4])
    return _concept(source, target, kind, weight, templates)


def _entry(entry: object, number: int) -> ConceptEdit:
    fields = {"target": None, **entry} if isinstance(entry, dict) else entry
    try:
        return from_json(ConceptEdit, fields, f"entry {number}")
    except RecordError as error:
        raise ConceptListError(f"{error}.") from error


def _concept(source: str, target: str, kind: str, weight: str, templates: Sequence[str]) -> ConceptEdit:
    try:
        number = float(weight) if weight.strip() else 1.0
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise PromptError(f"the weight is {weight.strip()[:80]!r}; expected a number above 0, such as 2.")
    return ConceptEdit(
        source, target.strip() or None, kind.strip().casefold() or "style", tuple(templates) or None, number
    )


def _itself(concept: ConceptEdit) -> ConceptEdit:
    return concept


def _gathered(found: Iterator[tuple[str, Callable[[], ConceptEdit]]]) -> ConceptList:
    """Concepts, each made where its place is known, so that an error can tell it."""
    known: dict[str, tuple[str, ConceptEdit]] = {}
    notes = []
    for place, make in found:
        try:
            concept = make()
        except ConceptListError:
            raise
        except PromptError as error:
            raise ConceptListError(f"{place}: {error}") from error
        before = known.setdefault(" ".join(concept.source.casefold().split()), (place, concept))
        if before[0] == place:
            continue
        _refuse_contradiction(*before, place, concept)
        notes.append(f"{place} repeats {before[0]}, {concept.source!r} {_ARROW} {concept.target!r}: counted once")
    return ConceptList(tuple(concept for _, concept in known.values()), tuple(notes))


def _refuse_contradiction(first: str, one: ConceptEdit, second: str, other: ConceptEdit) -> None:
    if (one.target or "").casefold() != (other.target or "").casefold():
        raise ConceptListError(
            f"{second}: the concept {other.source!r} has two targets, {one.target!r} ({first}) and {other.target!r}; "
            "keep one of them."
        )
    if (one.kind, one.weight, one.templates) != (other.kind, other.weight, other.templates):
        raise ConceptListError(
            f"{second}: {other.source!r} {_ARROW} {other.target!r} stands already on {first}, with another kind, "
            "weight or templates; keep one of them."
        )
