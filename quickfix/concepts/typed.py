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
_NETWORK = r"(?i)<[a-z_]+:[^<>]*>?"
_EMBEDDING = r"(?i)(?:^|[\s(,])embedding:"
_WEIGHTED = rf"[(\[]([^()\[\]]*):{_NUMBER}[)\]]"
_ENCLOSED = r"^(?:\(+([^()]*)\)+|\[+([^\[\]]*)\]+)$"
_WEIGHT_BEHIND = rf"\S:{_NUMBER}$"
_ESCAPED = r"\\([()\[\]])"
_ARROW = r"[-=\u2013\u2014]+>|[\u2192\u21d2\u2794\u279c\u27a1\u27f6]"
_QUOTED = r"(?s)^[\"\u201c\u201d\u201e\u00ab\u300c\u300e](.*)[\"\u201c\u201d\u00bb\u300d\u300f]$"
_BETWEEN = r"(?i)[,;\n\u3001\uff0c\uff1b]|\sand\s"
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
        if sentence in (NETWORK, EMBEDDING) or re.search(_WEIGHTED, name):
            raise PromptError(f"The name {name!r}: {(sentence or WEIGHT).format(name=bare(name))}.")


def plain(text: str) -> str:
    """A name as it is compared: without invisible characters and the spaces around it."""
    return unicodedata.normalize("NFC", visible(text)).strip()


def _notes(field: str, name: str) -> Iterator[Note]:
    """The first thing that is noticed about a name that is not empty."""
    sentence = _syntax_in(name)
    if sentence is None and field == SOURCE and re.search(_ARROW, name):
        sentence = ARROW
    if sentence is None and re.search(_QUOTED, name):
        sentence = QUOTES
    if sentence is not None:
        yield Note(field, sentence, {"name": bare(name)} if "{name}" in sentence else {})
        return
    names = [part for part in re.split(_BETWEEN, name) if part.strip()]
    if len(names) > 1:
        yield Note(field, SEVERAL, {"count": str(len(names))})
    elif field == SOURCE and name.casefold() in _COMMON:
        yield Note(field, COMMON, {})


def _syntax_in(name: str) -> str | None:
    if re.search(_NETWORK, name):
        return NETWORK
    if re.search(_EMBEDDING, name):
        return EMBEDDING
    if re.search(_WEIGHTED, name) or re.search(_ENCLOSED, name) or re.search(_WEIGHT_BEHIND, name):
        return WEIGHT
    return BACKSLASH if re.search(_ESCAPED, name) else None


def bare(name: str) -> str:
    """A name without weights, parentheses around it, backslashes before parentheses, and quotation marks."""
    while (found := re.sub(_WEIGHTED, r"\1", name)) != name:
        name = found
    name = re.sub(_ENCLOSED, lambda match: match[1] if match[1] is not None else match[2], name.strip())
    if re.search(_WEIGHT_BEHIND, name):
        name = name[: name.rindex(":")]
    name = re.sub(_QUOTED, r"\1", re.sub(_ESCAPED, r"\1", name).strip())
    return name.strip()
