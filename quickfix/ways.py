"""Where a model is best edited for a kind of concept, by what was measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from ..families.doors import Family
from .concepts.concept import ConceptEdit
from .concepts.pairs import ALIGNED, POSITIONS
from .concepts.settings import DOORS, GUARDED, EditSettings

AUTO_WAY, BY_DOORS, BY_ENCODER = WAYS = ("auto", "image model", "text encoder")
# Families whose text encoder holds one causal state of a concept (Basu et al. 2024).
_CAUSAL_STATE = ("sd1", "sd2")


class WayError(ValueError):
    """A way of editing that a model does not have."""


@dataclass(frozen=True)
class Way:
    """A way of editing.

    Attributes:
        by_doors: at the doors of the image model; otherwise in the text encoder.
        settings: of the edit.
        reason: why it is taken, as a clause; empty where somebody chose it.
    """

    by_doors: bool
    settings: EditSettings
    reason: str = ""

    def text(self, family: Family) -> str:
        """ "edited: ...", as a line."""
        where = f"the image model ({family.title}), where its text enters" if self.by_doors else "the text encoder"
        return f"edited: {where}{', ' + self.reason if self.reason else ''}"


def doors_settings(family: Family, positions: str) -> EditSettings:
    """The settings of an edit of doors; where every token reads all others, of the whole aligned caption."""
    return dataclasses.replace(DOORS, positions=positions if family.attention == "causal" else ALIGNED)


def kinds_of(concepts: Sequence[ConceptEdit]) -> frozenset[str]:
    """The kinds of some concepts."""
    return frozenset(concept.kind for concept in concepts)


def common_kind(concepts: Sequence[ConceptEdit]) -> str:
    """The kind by which the way of editing some concepts is chosen: theirs, or "object" where they are of several."""
    kind, *others = kinds_of(concepts)
    return "object" if others else kind


def way_of(family: Family, kind: str, name: str = AUTO_WAY) -> Way:
    """The way to edit a concept.

    Chosen on Shapes, a small Stable Diffusion 1 (``docs/doors-shapes.md``): for a style the doors, at the last subject
    token alone, leave styles that nobody named where they are. For things and colors the text encoder's first layer
    takes the concept away whole at the same harm to others; where it holds no single state of a concept, the doors at
    what follows the subject up to the end of the text.

    Args:
        family: of the image model.
        kind: of the concept.
        name: one of :data:`WAYS`.

    Raises:
        WayError: unknown name; the text encoder of a family that has no causal state.
    """
    if name not in WAYS:
        raise WayError(f"Unknown way {name!r}; expected one of {', '.join(WAYS)}.")
    doors = doors_settings(family, DOORS.positions if kind == "style" else POSITIONS[2])
    if name == BY_ENCODER and family.name not in _CAUSAL_STATE:
        raise WayError(
            f"The text encoders of {family.title} hold no single state of a concept that an edit could change "
            f'(arXiv 2405.01008). Choose the way "{BY_DOORS}" or "{AUTO_WAY}"; Diff-QuickFix Edit edits those of SDXL, '
            "Stable Diffusion 3 and Flux.1 all the same."
        )
    if name != AUTO_WAY:
        return Way(True, doors) if name == BY_DOORS else Way(False, GUARDED)
    if family.name not in _CAUSAL_STATE:
        return Way(True, doors, "the way for this family: its text encoders hold no single state of a concept")
    if kind == "style":
        return Way(True, doors, "which leaves other styles in place even where nobody names them")
    return Way(False, GUARDED, "which harms other things least when they are named")
