"""The node that changes the concepts of an edit."""

from __future__ import annotations

from ..quickfix import Changes, parse_changes
from .api import ConceptEditsType, Node, WeightEditType, edit_output, io, reporting, schema
from .edit_inputs import clip_input, model_input, strength_input
from .host.editing.door_edits import change_doors
from .host.editing.encoder_edits import change_encoders


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
                WeightEditType.Input("edit", tooltip="From a node that edits, Load Edit or another Change Edit."),
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
                model_input("Needed for an edit of Remove Concept or Edit Image Model."),
            ],
            outputs=[
                io.Clip.Output(id="edited_clip", display_name="clip", tooltip="The edited text encoder."),
                WeightEditType.Output(id="changed_edit", display_name="edit", tooltip="The changed edit."),
                io.String.Output(id="report", display_name="report", tooltip="What the changed edit does."),
                io.Model.Output(
                    id="edited_model", display_name="model", tooltip="The model, edited where the edit is of it."
                ),
            ],
        )

    @classmethod
    @reporting
    def execute(
        cls, clip, edit, drop: str, add: str, reweight: str, strength: float, concepts=None, model=None
    ) -> io.NodeOutput:
        written = parse_changes(drop, reweight, add)
        changes = Changes(written.drop, written.reweight, (*written.add, *(concepts or ())))
        if edit.of_states:
            patched, changed, note = change_doors(model, clip, edit, changes, strength)
            edited = clip.clone()
        else:
            patched = model if model is None else model.clone()
            edited, changed, note = change_encoders(clip, edit, changes, strength)
        output = edit_output(edited, changed, note=note)
        return io.NodeOutput(*output.args, patched, ui=output.ui)
