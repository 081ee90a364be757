"""Inputs that several editing nodes share, and what their values mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..quickfix import (
    AUTO_BREADTH,
    BREADTH_CHOICES,
    POSITIONS,
    PRESERVE_MODES,
    ConceptEdit,
    EditSettings,
    combine,
    preset,
    prompts_of_text,
)
from ..quickfix.concepts.typed import refuse_syntax
from ..text.captions import KINDS
from .api import ConceptEditsType, io

DEFAULT_POSITIONS = "default"


def clip_input() -> io.Input:
    return io.Clip.Input("clip", tooltip="The text encoder to edit. It is not changed.")


def source_input(default: str = "van gogh") -> io.Input:
    return io.String.Input("source", default=default, tooltip="The concept to edit away, as prompts write it.")


def target_input() -> io.Input:
    return io.String.Input(
        "target",
        default="painting",
        tooltip='What the concept becomes. For a style, "painting"; for a character, its kind ("dog"). '
        "Empty: the kind's own default.",
    )


def kind_input() -> io.Input:
    return io.Combo.Input(
        "kind",
        options=list(KINDS),
        default="style",
        tooltip="What the concept is. It sets the caption templates and the default target; "
        '"custom" uses your own templates.',
    )


def settled_preset_input() -> io.Input:
    """The preset of a node that finds lambda itself."""
    return io.Combo.Input(
        "preset",
        options=["guarded", "paper"],
        default="guarded",
        tooltip="The preset that the edit will use; its lambda does not count.",
    )


def layer_input() -> io.Input:
    return io.Int.Input(
        "layer",
        default=0,
        min=0,
        max=63,
        advanced=True,
        tooltip="The self-attention layer to edit. The paper finds the knowledge in the first one, 0.",
    )


def model_input(purpose: str) -> io.Input:
    """The image model of a node that works on edits of text encoders and of doors.

    Args:
        purpose: what it is needed for, as a sentence.
    """
    return io.Model.Input("model", optional=True, tooltip=f"The model that paints. {purpose}")


def positions_input() -> io.Input:
    return io.Combo.Input(
        "positions",
        options=list(POSITIONS),
        default=POSITIONS[1],
        advanced=True,
        tooltip="Which token positions of a caption are edited. The paper's edits take the last subject "
        "token and everything after it.",
    )


def searched_positions_input() -> io.Input:
    return io.Combo.Input(
        "positions",
        options=[DEFAULT_POSITIONS, *POSITIONS],
        default=DEFAULT_POSITIONS,
        advanced=True,
        tooltip="Which token positions of a caption are edited. default: those that Diff-QuickFix Edit takes, or, with "
        "a model, Remove Concept.",
    )


def strength_input() -> io.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=-2.0,
        max=2.0,
        step=0.05,
        tooltip="How much of the edit is applied. 0 leaves the model exactly as it is.",
    )


def preserve_input() -> io.Input:
    return io.String.Input(
        "preserve",
        multiline=True,
        optional=True,
        placeholder="preserve: prompts that must keep their meaning, one on each line, e.g. a photo of a dog",
        tooltip="Prompts that must keep their meaning, one on each line; added to the built-in ones. A "
        'line "" is the empty prompt. Preserve Set and Collateral Radar make such lists.',
    )


def preserve_mode_input() -> io.Input:
    return io.Combo.Input(
        "preserve_mode",
        options=list(PRESERVE_MODES),
        default=PRESERVE_MODES[0],
        optional=True,
        advanced=True,
        tooltip="How the prompts of `preserve` are kept. soft: moving costs. hard: they do not move at "
        "all; for a few prompts, about nine at most. The built-in ones are always kept softly.",
    )


def breadth_input(default: str) -> io.Input:
    return io.Combo.Input(
        "breadth",
        options=[AUTO_BREADTH, *BREADTH_CHOICES],
        default=default,
        optional=True,
        advanced=True,
        tooltip="A list of names to keep beside `preserve`, less what names the concept. short: 550 well-known "
        "artists, things, looks and colors. broad: 5,000 names of everything that people name. auto: short, or a part "
        "of it where the text encoder is too large for all. The first edit of a text encoder with a list takes "
        "longer, minutes where no GPU runs it; the next ones do not.",
    )


def templates_input() -> io.Input:
    return io.String.Input(
        "templates",
        multiline=True,
        optional=True,
        placeholder="templates: captions for kind custom, one on each line, e.g. a poster of {x}",
        tooltip='For kind "custom": caption templates, one on each line, with {x} for the concept.',
    )


def concepts_input() -> io.Input:
    return ConceptEditsType.Input(
        "concepts",
        optional=True,
        tooltip="More concepts, from Concept Edit List or Add Concept Edit, edited in the same solve. With "
        "them, this node's own may be empty.",
    )


def template_lines(text: str) -> tuple[str, ...] | None:
    """Caption templates, one on each line; None where there are none."""
    return tuple(line.strip() for line in text.splitlines() if line.strip()) or None


def wanted_concepts(
    source: str, target: str, kind: str, templates: str, concepts: Sequence[ConceptEdit] | None
) -> tuple[ConceptEdit, ...]:
    """A node's own concept and those of its socket; the own one may be empty where there are others.

    Raises:
        PromptError: see :class:`ConceptEdit` and :func:`refuse_syntax`; a concept twice with different settings.
    """
    others = tuple(concepts or ())
    if not others or source.strip():
        own = ConceptEdit(source, target.strip() or None, kind, template_lines(templates))
        others = combine(others, (own,)).concepts
    refuse_syntax(name for concept in others for name in (concept.source, concept.target or ""))
    return others


def edit_settings(
    name: str, layer: int, lam: float, positions: str, preserve: str = "", mode: str = PRESERVE_MODES[0]
) -> EditSettings:
    """A preset with a node's own values over it; lambda 0 keeps the preset's."""
    base = preset(name)
    settings = dataclasses.replace(base, layer=layer, lam=lam or base.lam, positions=positions)
    return settings.keeping(prompts_of_text(preserve), mode)
