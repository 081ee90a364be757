"""The node that changes the concepts of an edit."""

from __future__ import annotations

import dataclasses

from ..quickfix import Changes, TowerError, compute_edit, parse_changes, require_fit
from .api import ConceptEditsType, Node, WeightEditType, edit_output, io, reporting, schema
from .edit_inputs import clip_input, strength_input
from .host.editing.ledgers import MOST_CONCEPTS, keep_ledger, ledger_of
from .host.editing.text_encoder import apply_edit, foreign_note, open_text_encoder, stored_report
from .host.progress import progress_bar


class ChangeEdit(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_ChangeEdit",
            display_name="Change Edit",
            category="Diff-QuickFix/edit",
            search_aliases=["ledger", "undo", "drop concept", "add concept"],
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Drops, adds or re-weights concepts of an edit, be it fresh or from a file, and solves it again from "
                "stored sums: the same as computing it anew, and quick."
            ),
            inputs=[
                clip_input(),
                WeightEditType.Input("edit", tooltip="From Diff-QuickFix Edit, Load Edit or another Change Edit."),
                io.String.Input(
                    "drop",
                    multiline=True,
                    default="",
                    placeholder="drop: concepts to take out, one on each line, e.g. van gogh",
                    tooltip="Concepts to take out of the edit, one on each line.",
                ),
                io.String.Input(
                    "add",
                    multiline=True,
                    default="",
                    placeholder="add: concepts to add, one on each line, e.g. van gogh -> painting",
                    tooltip="Concepts to add, one on each line, as in Concept Edit List: van gogh -> painting.",
                ),
                io.String.Input(
                    "reweight",
                    multiline=True,
                    default="",
                    placeholder="reweight: concepts to count more or less, one on each line, e.g. van gogh: 0.5",
                    tooltip="Concepts that should count more or less, one on each line: van gogh: 0.5.",
                ),
                strength_input(),
                ConceptEditsType.Input(
                    "concepts",
                    optional=True,
                    tooltip="More concepts to add, from Concept Edit List or Add Concept Edit.",
                ),
            ],
            outputs=[
                io.Clip.Output(id="edited_clip", display_name="clip", tooltip="The edited text encoder."),
                WeightEditType.Output(id="changed_edit", display_name="edit", tooltip="The changed edit."),
                io.String.Output(id="report", display_name="report", tooltip="What the changed edit does."),
            ],
        )

    @classmethod
    @reporting
    def execute(cls, clip, edit, drop: str, add: str, reweight: str, strength: float, concepts=None) -> io.NodeOutput:
        written = parse_changes(drop, reweight, add)
        changes = Changes(written.drop, written.reweight, (*written.add, *(concepts or ())))
        if edit.of_states:
            raise TowerError(
                "The edit is one of an image model's doors; Change Edit changes edits of a text encoder. List all "
                "concepts in Concept Edit List, and give the list to Remove Concept or Edit Image Model."
            )
        encoder = open_text_encoder(clip)
        require_fit(encoder.tower, edit)
        if len(edit.concepts) > MOST_CONCEPTS:
            concepts = changes.made_on(edit.concepts, encoder.tokenizer)
            changed = compute_edit(encoder.tower, encoder.tokenizer, concepts, edit.settings, progress=progress_bar())
            ledger = None
        else:
            ledger = changes.apply(ledger_of(clip, encoder, edit))
            changed = ledger.solve()
        changed = dataclasses.replace(changed, report=stored_report(encoder, changed, strength))
        if ledger is not None:
            keep_ledger(clip, encoder, changed, ledger)
        edited = apply_edit(clip, encoder, changed, strength)
        return edit_output(edited, changed, changed.report, foreign_note(encoder, edit))
