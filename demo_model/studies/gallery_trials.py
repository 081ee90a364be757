"""The edits of the study of Shapes XL and Shapes DiT (``gallery.py``): which concepts, guarded by what, which way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ...families.doors import Family
from ...quickfix import BROAD, GUARDED, POSITIONS, SHORT, ConceptEdit, EditSettings
from ...quickfix.concepts.names import name_list
from ...quickfix.ways import BY_DOORS, doors_settings, way_of
from ..worlds.catalog import GALLERY

KINDS: dict[str, tuple[str, ...]] = {
    "style": tuple(GALLERY.styles),
    "object": tuple(GALLERY.objects),
    "color": tuple(GALLERY.colors),
}
# Captions that a preserve set says of a value; none is one of the study's prompts.
CONTEXTS = {
    "style": ("{}", "a painting in the style of {}", "art by {}"),
    "object": ("{}", "a photo of a {}", "a {} on a table"),
    "color": ("{}", "a {} thing", "something {}"),
}
NAMING = ("none", "all", "half 1", "half 2")
DOORS_VALUES, DOORS_KEYS, CLIPS, STATES_ALONE = WAYS = ("doors", "doors with keys", "CLIPs' layer 0", "conditioning")


@dataclass(frozen=True)
class Trial:
    """One edit.

    Attributes:
        kind: of :data:`KINDS`.
        concepts: (source, target) of all that is edited at once.
        naming: of :data:`NAMING`, the values of the kind that the preserve set names.
        way: of :data:`WAYS`: the doors that are edited by default (values and the pooled vector); keys beside them; the
            first self-attention of each text tower; the conditioning, states and pooled vector.
        positions: where they are not those of the way for the kind.
        hold: whether the empty prompt is held, and not softly preserved.
        breadth: the list of names that guards it; "" for none.
    """

    kind: str
    concepts: tuple[tuple[str, str], ...]
    naming: str = "none"
    way: str = DOORS_VALUES
    positions: str = ""
    hold: bool = False
    breadth: str = ""

    @property
    def name(self) -> str:
        parts = ["; ".join(f"{source} -> {target}" for source, target in self.concepts), self.way, self.naming]
        parts += [part for part in (self.positions, self.breadth) if part]
        return ", ".join([*parts, *(["empty prompt held"] if self.hold else [])])

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source for source, _ in self.concepts)

    def edits(self) -> list[ConceptEdit]:
        kind = "style" if self.kind == "style" else "object"
        return [ConceptEdit(source, target, kind) for source, target in self.concepts]

    def named(self) -> tuple[str, ...]:
        """The values of the kind that the preserve set names."""
        others = tuple(value for value in KINDS[self.kind] if value not in self.sources)
        if self.naming in NAMING[:2]:
            return others if self.naming == NAMING[1] else ()
        return others[NAMING.index(self.naming) - 2 :: 2]

    def guarded(self) -> tuple[str, ...]:
        """The other values of the kind that the preserve set or the list of names holds."""
        listed = {name.casefold() for name in name_list(self.breadth).names} if self.breadth else set()
        others = (value for value in KINDS[self.kind] if value not in self.sources)
        return tuple(value for value in others if value in listed or value in self.named())

    def preserved(self) -> tuple[str, ...]:
        """The guarded preset's preserve set without any value of the kind, and captions of those that are named."""
        every = KINDS[self.kind]
        plain = [prompt for prompt in GUARDED.preserve if not any(value in prompt for value in every)]
        return (*plain, *(context.format(value) for value in self.named() for context in CONTEXTS[self.kind]))

    def settings(self, family: Family) -> EditSettings:
        if self.way == CLIPS:
            return replace(GUARDED, preserve=self.preserved())
        chosen = way_of(family, "style" if self.kind == "style" else "object", BY_DOORS).settings
        if self.positions:
            chosen = doors_settings(family, self.positions)
        hold = ("",) if self.hold else ()
        return replace(chosen, preserve=self.preserved(), hold=hold, breadth=self.breadth)


_CONCEPTS = {
    "style": (("van gogh", "painting"), ("gustav klimt", "painting"), ("frank stella", "painting")),
    "object": (("fish", "cup"), ("star", "circle"), ("butterfly", "house")),
    "color": (("red", "blue"), ("pink", "gray")),
}


def _trials() -> Iterator[Trial]:
    """Naming by naming and the first concept of each kind first, so that a study that is cut short has seen all."""
    firsts = [(kind, pairs[:1]) for kind, pairs in _CONCEPTS.items()]
    for number in range(3):
        for naming in NAMING:
            yield from (
                Trial(k, pairs[number : number + 1], naming) for k, pairs in _CONCEPTS.items() if pairs[number:]
            )
    yield from (Trial("style", _CONCEPTS["style"], naming) for naming in NAMING[:2])
    for way in WAYS[1:]:
        yield from (Trial(*first, naming, way) for naming in NAMING[:2] for first in firsts)
    yield from (Trial(*first, hold=True) for first in firsts)
    yield Trial(*firsts[0], positions=POSITIONS[2])
    yield from (Trial(*first, positions=POSITIONS[0]) for first in firsts[1:])
    yield from (Trial(*first, positions=POSITIONS[1]) for first in firsts)
    for breadth in (BROAD, SHORT):
        yield from (Trial(*first, breadth=breadth) for first in firsts)
    yield from (Trial(kind, pairs[1:2], breadth=BROAD) for kind, pairs in _CONCEPTS.items())
    yield Trial("color", _CONCEPTS["color"][1:], breadth=SHORT)


TRIALS = tuple(_trials())


def trials_of(ways: Sequence[str]) -> tuple[Trial, ...]:
    """Those of a model that can be edited in some of the ways.

    Where one of them is the text towers' first layer, these read in one direction, and there are positions to choose
    from.
    """
    return tuple(trial for trial in TRIALS if trial.way in ways and (CLIPS in ways or not trial.positions))
