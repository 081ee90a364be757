"""Lists of concepts as text, CSV and JSON.

Text has one edit a line. Without an arrow the kind's default target is taken; settings follow in any order, and
``template`` may come several times::

    # artists
    van gogh -> painting
    snoopy -> dog | kind=object | weight=2 | template=a drawing of {x} | template={x} on grass

Lines are read as people write them (``lines.py``): with bullets, comments, quotes around names, and any arrow. What
could mean two things is refused: several names on a line, a second arrow, a name and something else without an arrow
between them. A text that is a JSON list, or a table whose first line names the columns, is read as such.

CSV has a first line that names its columns: source, target, kind, weight, templates (several of them apart by ``|``),
in any order, source alone being needed. JSON is a list of objects with the same names, templates being a list; a string
in it is read as a line.

Files come from other people: size, encoding, names and types are checked, and an error says where.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...output.json_records import RecordError, from_json, parse
from ...text.prompts import PromptError
from .concept import ConceptEdit
from .lines import (
    ARROW,
    content_lines,
    find_arrows,
    has_arrow_to_the_left,
    taken_to_the_letter,
    unquoted,
)

LARGEST_FILE = 8 * 2**20
COLUMNS = ("source", "target", "kind", "weight", "templates")
_BAR = "|"
# The bar of a full-width keyboard.
_BARS = str.maketrans({"\uff5c": _BAR})
# What separates names in a list, and what stands between a name and something that is said of it.
_SEPARATORS, _SAYING = ",;\uff0c\uff1b\u3001\t", "=:<>\uff1a\uff1d"
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
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith("[") and start.rstrip().endswith("]"):
        return concepts_from_json(text)
    if _names_columns(start.split("\n", 1)[0]):
        return concepts_from_csv(text)
    if start.startswith("{"):
        raise ConceptListError("line 1: this looks like JSON; expected a list in brackets, or one edit a line.")
    return _gathered((f"line {number}", partial(_line, line, number)) for number, line in entries(text))


def entries(text: str) -> list[tuple[int, str]]:
    """The lines of a text that say something, each with its number from 1 (see :func:`~.lines.content_lines`).

    Raises:
        ConceptListError: a control character, with its line and column.
    """
    return content_lines(_clean(text))


def entered_name(line: str, number: int) -> str:
    """The name that a line of :func:`entries` consists of, without quotes around it.

    Raises:
        ConceptListError: a quote is opened and not closed, or the other way round.
    """
    try:
        return unquoted(line)
    except ValueError as error:
        raise ConceptListError(f"line {number}: {error}.") from error


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
    options = [f"kind={concept.kind}"] * (concept.kind != "style")
    options += [f"weight={concept.weight!r}"] * (concept.weight != 1)
    options += [f"template={template}" for template in templates or ()]
    for quote in ("", '"', "`"):
        names = f" {ARROW} ".join(f"{quote}{name}{quote}" for name in (concept.source, concept.target))
        line = f" {_BAR} ".join((names, *options))
        with contextlib.suppress(PromptError):
            if parse_concepts(line).concepts == (concept,):
                return line
    raise ConceptListError(f"The concept {concept.source!r} cannot be written as a line; use JSON.")


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
    names, *options = line.translate(_BARS).split(_BAR)
    source, target = _source_and_target(names, number)
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


def _source_and_target(names: str, number: int) -> tuple[str, str]:
    """The two names of a line, without quotes; the target is empty where the line has none."""
    whole = names.strip()
    if taken_to_the_letter(whole) and find_arrows(whole[1:-1]):
        # The whole line stands in quotes, as on a command line.
        names = names.replace(whole, f" {whole[1:-1]} ")
    arrows = find_arrows(names)
    if len(arrows) > 1:
        raise ConceptListError(
            f"line {number}, column {arrows[1][0] + 1}: a second {names[slice(*arrows[1])]}; expected a single one."
        )
    if not arrows:
        if has_arrow_to_the_left(names):
            raise ConceptListError(f"line {number}: an arrow points to the left; write source {ARROW} target.")
        _refuse_signs(names, number, _SAYING)
        return _name(names, number), ""
    start, end = arrows[0]
    if not names[end:].strip():
        raise ConceptListError(
            f"line {number}, column {end + 1}: nothing stands after {names[start:end]}; name a target."
        )
    return _name(names[:start], number), _name(names[end:], number)


def _name(text: str, number: int) -> str:
    """One name of a line."""
    _refuse_signs(text, number, _SEPARATORS)
    return entered_name(text, number)


def _refuse_signs(text: str, number: int, signs: str) -> None:
    """Refuse a name that is more than one, or says more than a name, unless it stands in quotes."""
    found = next((sign for sign in text.strip() if sign in signs), None)
    if found is not None and not taken_to_the_letter(text):
        raise ConceptListError(
            f"line {number}: {text.strip()[:80]!r} holds {found!r} and could mean several things; write one edit a "
            f"line, as source {ARROW} target, and put a name that holds {found!r} into quotes."
        )


def _names_columns(line: str) -> bool:
    """Whether a line is the first of a table."""
    cells = [cell.strip().strip('"').casefold() for cell in re.split("[,;\t]", line)]
    return len(cells) > 1 and "source" in cells and all(cell in COLUMNS for cell in cells)


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
    if isinstance(entry, str):
        return _line(entry, number)
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
        notes.append(f"{place} repeats {before[0]}, {concept.source!r} {ARROW} {concept.target!r}: counted once")
    return ConceptList(tuple(concept for _, concept in known.values()), tuple(notes))


def _refuse_contradiction(first: str, one: ConceptEdit, second: str, other: ConceptEdit) -> None:
    if (one.target or "").casefold() != (other.target or "").casefold():
        raise ConceptListError(
            f"{second}: the concept {other.source!r} has two targets, {one.target!r} ({first}) and {other.target!r}; "
            "keep one of them."
        )
    if (one.kind, one.weight, one.templates) != (other.kind, other.weight, other.templates):
        raise ConceptListError(
            f"{second}: {other.source!r} {ARROW} {other.target!r} stands already on {first}, with another kind, "
            "weight or templates; keep one of them."
        )
