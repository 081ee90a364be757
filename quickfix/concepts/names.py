"""Lists of everything that people name, each name in a few contexts of use: what a guard by breadth keeps.

The names stand in ``data`` by their kind, in files that say their source; ``data/names.json`` says which files a list
consists of and in which contexts a kind of name stands. A context is filled with a color, a place, a style and a thing,
in turn, so that no two names need stand in the same one.

A list belongs to its version: an edit says which list guarded it ("broad-1"), and a changed list has another name.
Of the short list there are shorter ones, each within the one before it: all colors, and of the other names every
second, fourth or eighth, so that each kind keeps its share.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...text.prompts import PromptError
from .concept import ConceptEdit

_DATA = Path(__file__).parent / "data"
NO_BREADTH, SHORT, BROAD = "", "short-1", "broad-1"
SHORTER = {"short-1-half": 2, "short-1-quarter": 4, "short-1-eighth": 8}
"""Parts of the short list, and of how many of its names one is theirs."""
BREADTHS = (NO_BREADTH, SHORT, BROAD, *SHORTER)
"""Lists that a guard can be of: none, some 550 well-known names, some 4,900 of all kinds, and parts of the first."""

BREADTH_CHOICES = {"none": NO_BREADTH, "short": SHORT, "broad": BROAD}
"""What people call the lists."""

# Words that names have in common without being alike.
_SMALL = frozenset(
    ("a", "an", "and", "at", "by", "da", "de", "del", "der", "des", "di", "du", "el", "in", "la", "le", "of", "on")
) | {"s", "the", "to", "van", "von", "with", "della"}
_IRREGULAR = {"men": "man", "women": "woman", "children": "child", "feet": "foot", "geese": "goose", "mice": "mouse"}
_IRREGULAR |= {"teeth": "tooth", "oxen": "ox", "people": "person"}
_SLOT, _WORD = r"\{(\w+)\}", r"\w+"


class Caption(NamedTuple):
    """A name in a context."""

    text: str
    context: str
    """With slots."""
    fillings: tuple[str, ...]
    """What its other slots hold."""


@dataclass(frozen=True, eq=False)
class NameList:
    """Names in their contexts.

    Attributes:
        name: of the list, with its version.
        names: each once.
        captions: the captions of each name.
        digest: SHA-256 of the captions.
        kinds: of the names, by which they stand in their contexts.
    """

    name: str
    names: tuple[str, ...]
    captions: tuple[tuple[Caption, ...], ...]
    digest: str
    kinds: tuple[str, ...] = ()

    def naming(self, concepts: Sequence[ConceptEdit]) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
        """What of the list names a concept.

        A name is left out where it has a word of a concept's source, in the singular or the plural, or differs from it
        in how the words are divided ("spiderman"); a single caption, where a filling has, or where the context itself
        holds the source. Small words ("of", "van") do not count, unless a source has no others. What a concept becomes
        is kept, be it a part of the source ("bear" of "polar bear"), unless it is a source itself.

        Returns:
            The places of the names, and those of captions of other names: (name, caption).
        """
        by_word, by_whole, by_part = self._index
        sources = {stems(concept.source) for concept in concepts} - {()}
        targets = {stems(concept.target or "") for concept in concepts} - sources
        names: set[int] = set()
        parts: set[str] = set()
        for source in sources:
            words = {word for word in source if word not in _SMALL} or set(source)
            names.update(place for word in words for place in by_word.get(word, ()))
            names.update(by_whole.get("".join(source), ()))
            for part in by_part:
                own = stems(re.sub(_SLOT, " ", part))
                if _within(source, own) if "{" in part else not words.isdisjoint(own):
                    parts.add(part)
        names -= {place for target in targets for place in by_whole.get("".join(target), ())}
        captions = {place for part in parts for place in by_part[part] if place[0] not in names}
        return frozenset(names), frozenset(captions)

    @functools.cached_property
    def _index(self) -> tuple[dict[str, list[int]], dict[str, list[int]], dict[str, list[tuple[int, int]]]]:
        """Where each word of a name stands, each name with its words written together, each context and filling."""
        words: dict[str, list[int]] = {}
        wholes: dict[str, list[int]] = {}
        parts: dict[str, list[tuple[int, int]]] = {}
        for number, (name, own) in enumerate(zip(self.names, self.captions, strict=True)):
            wholes.setdefault("".join(stems(name)), []).append(number)
            for word in set(stems(name)):
                words.setdefault(word, []).append(number)
            for place, caption in enumerate(own):
                for part in (caption.context, *caption.fillings):
                    parts.setdefault(part, []).append((number, place))
        return words, wholes, parts


def require_breadth(name: str) -> None:
    """Refuse a list that there is none of (PromptError), such as one of another version of this pack."""
    if name not in BREADTHS:
        raise PromptError(
            f"There is no list of names {name!r}; expected one of {', '.join(BREADTHS[1:])}, or none. An edit that a "
            "list of another version guarded cannot be computed again: choose one of these, or update the pack."
        )


@functools.cache
def name_list(name: str) -> NameList:
    """A list of :data:`BREADTHS`.

    Raises:
        PromptError: there is none of this name.
    """
    require_breadth(name)
    if name in SHORTER:
        return _part_of(name_list(SHORT), name)
    record = json.loads((_DATA / "names.json").read_text(encoding="utf-8"))
    kinds: dict[str, str] = {}
    for file, kind in record["lists"].get(name, {}).items():
        for line in (_DATA / f"{file}.txt").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                kinds.setdefault(line, kind)
    fillings = {
        slot: [(entry, frozenset(stems(entry))) for entry in entries] for slot, entries in record["fillings"].items()
    }
    captions = []
    for number, (entry, kind) in enumerate(kinds.items()):
        own = frozenset(stems(entry))
        contexts = record["contexts"][kind]
        captions.append(tuple(_filled(context, entry, own, fillings, number + i) for i, context in enumerate(contexts)))
    return NameList(name, tuple(kinds), tuple(captions), _digest(captions), tuple(kinds.values()))


def _part_of(whole: NameList, name: str) -> NameList:
    """One of :data:`SHORTER`: all colors, and every so many-th of the other names, in their captions."""
    colors = [place for place, kind in enumerate(whole.kinds) if kind == "color"]
    others = [place for place, kind in enumerate(whole.kinds) if kind != "color"]
    places = sorted([*colors, *others[:: SHORTER[name]]])
    names, kinds = (tuple(column[place] for place in places) for column in (whole.names, whole.kinds))
    captions = tuple(whole.captions[place] for place in places)
    return NameList(name, names, captions, _digest(captions), kinds)


def _digest(captions: Sequence[Sequence[Caption]]) -> str:
    return hashlib.sha256("\n".join(caption.text for own in captions for caption in own).encode()).hexdigest()


def stems(text: str) -> tuple[str, ...]:
    """The words of a text without capitals, accents and endings of the plural, so that both forms of a word agree."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    return tuple(map(_stem, re.findall(_WORD, plain.casefold().replace("'s", ""))))


@functools.lru_cache(maxsize=1 << 15)
def _stem(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, single in (("ies", "y"), ("ves", "f"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + single
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    return word.removesuffix("e") if word.endswith("fe") else word


def _filled(
    context: str, name: str, own: frozenset[str], fillings: dict[str, list[tuple[str, frozenset[str]]]], turn: int
) -> Caption:
    """A context with a name; of each filling another one in turn, none that has a word of the name."""
    text, used = context, []
    for slot in re.findall(_SLOT, context):
        value = name
        if slot != "x":
            choices = [entry for entry, words in fillings[slot] if own.isdisjoint(words)]
            value = choices[turn % len(choices)]
            used.append(value)
        text = text.replace(f"{{{slot}}}", value)
    return Caption(text, context, tuple(used))


def _within(words: Sequence[str], text: Sequence[str]) -> bool:
    return any(tuple(text[at : at + len(words)]) == tuple(words) for at in range(len(text) - len(words) + 1))
