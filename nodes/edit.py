"""The editing node."""

from __future__ import annotations

import dataclasses

from ..prompts import KINDS
from ..quickfix import (
    POSITIONS,
    PRESERVE_MODES,
    ConceptEdit,
    EditSettings,
    combine,
    compute_edit,
    preset,
    prompts_of_text,
)
from .api import ConceptEditsType, WeightEditType, io, report_ui, schema
from .host.progress import progress_bar
from .host.text_encoder import apply_edit, open_text_encoder, stored_report


def template_lines(text: str) -> tuple[str, ...] | None:
    """Caption templates, one on each line; None where there are none."""
    return tuple(line.strip() for line in text.splitlines() if line.strip()) or None


def edit_settings(
    name: str, layer: int, lam: float, positions: str, preserve: str = "", mode: str = PRESERVE_MODES[0]
) -> EditSettings:
    """A preset with a node's own values over it; lambda 0 keeps the preset's."""
    base = preset(name)
    settings = dataclasses.replace(base, layer=layer, lam=lam or base.lam, positions=positions)
    return settings.keeping(prompts_of_text(preserve), mode)


def strength_input() -> io.Input:
    return io.Float.Input("strength", default=1.0, min=-2.0, max=2.0, step=0.05,
                          tooltip="How much of the edit is applied. 0 leaves the model exactly as it is.")  # fmt: skip


class DiffQuickFixEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_Edit",
            display_name="Diff-QuickFix Edit",
            category="Diff-QuickFix/edit",
            search_aliases=["remove concept", "erase concept", "unlearn", "remove style"],
            # ComfyUI 0.19: the report is shown again after a reload, and when the node's result was cached.
            has_intermediate_output=True,
            description=(
                "Removes or replaces a concept in the CLIP text encoder by one closed-form update, in well under a "
                "second. The given CLIP is not changed. For Stable Diffusion 1.x and 2.x."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder to edit. LoRA nodes may stand before or after."),
                io.String.Input("source", default="van gogh", tooltip="The concept to edit away, as prompts write it."),
                io.String.Input(
                    "target",
                    default="painting",
                    tooltip='What the concept becomes. For a style, "painting"; for a character, its kind ("dog"). '
                    "Empty: the kind's own default.",
                ),
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="style",
                    tooltip="What the concept is. It sets the caption templates and the default target; "
                    '"custom" uses your own templates.',
                ),
                io.Combo.Input(
                    "preset",
                    options=["guarded", "paper", "auto"],
                    default="guarded",
                    tooltip="guarded: keeps everyday prompts and the empty prompt in place. "
                    "paper: the published settings (lambda 0.01, nothing preserved). "
                    "auto: guarded, with the lambda that Find Lambda finds.",
                ),
                io.Int.Input(
                    "layer",
                    default=0,
                    min=0,
                    max=63,
                    tooltip="The self-attention layer to edit. The paper finds the knowledge in the first one, 0.",
                ),
                io.Float.Input(
                    "lam",
                    display_name="lambda",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.001,
                    round=False,
                    tooltip="How strongly the old weight is kept. Larger is gentler. 0: the preset's value.",
                ),
                io.Combo.Input(
                    "positions",
                    options=list(POSITIONS),
                    default=POSITIONS[1],
                    tooltip="Which token positions of a caption are edited. The paper's edits take the last subject "
                    "token and everything after it.",
                ),
                strength_input(),
                io.String.Input(
                    "preserve",
                    multiline=True,
                    optional=True,
                    tooltip="Prompts that must keep their meaning, one on each line; added to the preset's own. A "
                    'line "" is the empty prompt. Preserve Set and Collateral Radar make such lists.',
                ),
                io.String.Input(
                    "templates",
                    multiline=True,
                    optional=True,
                    tooltip='For kind "custom": caption templates, one on each line, with {x} for the concept.',
                ),
                io.Combo.Input(
                    "preserve_mode",
                    options=list(PRESERVE_MODES),
                    default=PRESERVE_MODES[0],
                    optional=True,
                    tooltip="How the prompts of `preserve` are kept. soft: moving costs. hard: they do not move at "
                    "all; for a few prompts, about nine at most. The preset's own are always kept softly.",
                ),
                ConceptEditsType.Input(
                    "concepts",
                    optional=True,
                    tooltip="More concepts, from Concept Edit List or Add Concept Edit, edited in the same solve. With "
                    "them, `source` may be empty.",
                ),
            ],
            outputs=[
                io.Clip.Output(id="edited_clip", display_name="clip", tooltip="The edited text encoder."),
                WeightEditType.Output(id="edit", display_name="edit", tooltip="The edit itself, with its report."),
                io.String.Output(
                    id="report",
                    display_name="report",
                    tooltip="What the edit does, measured before any picture is made.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip,
        source: str,
        target: str,
        kind: str,
        preset: str,
        layer: int,
        lam: float,
        positions: str,
        strength: float,
        preserve: str = "",
        templates: str = "",
        preserve_mode: str = PRESERVE_MODES[0],
        concepts=None,
    ) -> io.NodeOutput:
        wanted = tuple(concepts or ())
        if source.strip() or not wanted:
            own = ConceptEdit(source, target.strip() or None, kind, template_lines(templates))
            wanted = combine(wanted, (own,)).concepts
        settings = edit_settings(preset, layer, lam, positions, preserve, preserve_mode)
        encoder = open_text_encoder(clip)
        edit = compute_edit(encoder.tower, encoder.tokenizer, wanted, settings, progress=progress_bar())
        edit = dataclasses.replace(edit, report=stored_report(encoder, edit, strength))
        report = edit.report.text()
        return io.NodeOutput(
            apply_edit(clip, encoder, edit, strength), edit, report, ui=report_ui(report, edit.report.as_dict())
        )
