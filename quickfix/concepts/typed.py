"""What is noticed about a name as it is typed into a field for one: prompt syntax, several names, nothing at all.

A field for a name takes the name as prompts say it, once ComfyUI has read their syntax: "(van gogh:1.3)" in a prompt is
"van gogh" to the text encoder, and an edit of "(van gogh:1.3)" is an edit of parentheses and digits. The page's
``typed_names.mjs`` holds the same rules, so that a person is told while typing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ...text.captions import default_target
from ...text.prompts import PromptError
from .lines import visible

SOURCE, TARGET = "source", "target"

EMPTY_SOURCE = "is empty; name what to edit away, as prompts write it"
EMPTY_TARGET = 'is empty; name what it becomes, such as "dog"'
SAME = "is the same as the source; name something else"
NETWORK = "<...:...> is prompt syntax and loads nothing here; take it away"
EMBEDDING = "an embedding has vectors and no words; name words instead"
WEIGHT = 'parentheses and weights are prompt syntax; write "{name}"'
BACKSLASH = 'backslashes are prompt syntax; write "{name}"'
ARROW = "one line with an arrow is for Concept Edit List; here, what it becomes has a field of its own"
QUOTES = 'quotation marks would be part of the name; write "{name}"'
SEVERAL = "reads as {count} names and is edited as one; if they are several, give each a line in Concept Edit List"
COMMON = "stands in most prompts: editing it moves them all"
TOO_LONG = "has {count} tokens with a caption around it, of which CLIP reads {room}; shorten it"
ABSENT = "is in none of the {count} prompts that this CLIP encodes; check the spelling"
SENTENCES = (
    *(EMPTY_SOURCE, EMPTY_TARGET, SAME, NETWORK, EMBEDDING, WEIGHT, BACKSLASH, ARROW, QUOTES, SEVERAL, COMMON),
    *(TOO_LONG, ABSENT),
)

_NUMBER = r"\s*[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)\s*"
_NETWORK = re.compile(r"<[a-z_]+:[^<>]*>?", re.IGNORECASE)
_EMBEDDING = re.compile(r"(?:^|[\s(,])embedding:", re.IGNORECASE)
_WEIGHTED = re.compile(rf"[(\[]([^()\[\]]*):{_NUMBER}[)\]]")
_ENCLOSED = re.compile(r"^(?:\(+([^()]*)\)+|\[+([^\[\]]*)\]+)$")
_WEIGHT_BEHIND = re.compile(rf"\S:{_NUMBER}$")
_ESCAPED = re.compile(r"\\([()\[\]])")
_ARROW = re.compile(r"[-=\u2013\u2014]+>|[\u2192\u21d2\u2794\u279c\u27a1\u27f6]")
_QUOTED = re.compile(r"^[\"\u201c\u201d\u201e\u00ab\u300c\u300e](.*)[\"\u201c\u201d\u00bb\u300d\u300f]$", re.DOTALL)
_BETWEEN = re.compile(r"[,;\n\u3001\uff0c\uff1b]|\sand\s", re.IGNORECASE)
_COMMON = frozenset(
    ("a", "an", "the", "of", "and", "or", "in", "on", "at", "by", "with", "to", "for", "from", "is", "it")
)


class Note(NamedTuple):
    """Something noticed about a field."""

    field: str
    """:data:`SOURCE` or :data:`TARGET`."""
    sentence: str
    """One of :data:`SENTENCES`, which goes on after the field's name."""
    values: dict[str, str]
    """What stands in its places."""

    def text(self) -> str:
        return self.sentence.format(**self.values)


def notes_on(source: str, target: str | None, kind: str, *, listed: bool = False) -> tuple[Note, ...]:
    """What is noticed about the names of one concept.

    Args:
        source, target: as they were typed; a target of None: there is no field for one.
        kind: of the concept; where it has a default target, the target may be empty.
        listed: whether there are other concepts, so that the source may be empty, and then the target counts nothing.
    """
    own, other = plain(source), "" if target is None else plain(target)
    if not own and listed:
        return ()
    notes = [*_notes(SOURCE, own)] if own else [Note(SOURCE, EMPTY_SOURCE, {})]
    if target is None:
        return tuple(notes)
    if not other:
        return tuple(notes) if default_target(kind) else (*notes, Note(TARGET, EMPTY_TARGET, {}))
    if own.casefold() == other.casefold():
        return (*notes, Note(TARGET, SAME, {}))
    return (*notes, *_notes(TARGET, other))


def refuse_syntax(names: Iterable[str]) -> None:
    """Refuse names in which a prompt's syntax was left.

    Raises:
        PromptError: a name holds a weight in parentheses, a LoRA's tag or an embedding.
    """
    for name in names:
        sentence = _syntax_in(name)
        if sentence in (NETWORK, EMBEDDING) or _WEIGHTED.search(name):
            raise PromptError(f"The name {name!r}: {(sentence or WEIGHT).format(name=bare(name))}.")


def plain(text: str) -> str:
    """A name as it is compared: without invisible characters and the spaces around it."""
    return unicodedata.normalize("NFC", visible(text)).strip()


def _notes(field: str, name: str) -> Iterator[Note]:
    """The first thing that is noticed about a name that is not empty."""
    sentence = _syntax_in(name)
    if sentence is None and field == SOURCE and _ARROW.search(name):
        sentence = ARROW
    if sentence is None and _QUOTED.search(name):
        sentence = QUOTES
    if sentence is not None:
        yield Note(field, sentence, {"name": bare(name)} if "{name}" in sentence else {})
        return
    names = [part for part in _BETWEEN.split(name) if part.strip()]
    if len(names) > 1:
        yield Note(field, SEVERAL, {"count": str(len(names))})
    elif field == SOURCE and name.casefold() in _COMMON:
        yield Note(field, COMMON, {})


def _syntax_in(name: str) -> str | None:
    if _NETWORK.search(name):
        return NETWORK
    if _EMBEDDING.search(name):
        return EMBEDDING
    if _WEIGHTED.search(name) or _ENCLOSED.search(name) or _WEIGHT_BEHIND.search(name):
        return WEIGHT
    return BACKSLASH if _ESCAPED.search(name) else None


def bare(name: str) -> str:
    """A name without weights, parentheses around it, backslashes before parentheses, and quotation marks."""
    while (found := _WEIGHTED.sub(r"\1", name)) != name:
        name = found
    name = _ENCLOSED.sub(lambda match: match[1] if match[1] is not None else match[2], name.strip())
    if _WEIGHT_BEHIND.search(name):
        name = name[: name.rindex(":")]
    name = _QUOTED.sub(r"\1", _ESCAPED.sub(r"\1", name).strip())
    return name.strip()
