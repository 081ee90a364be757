"""Nodes that keep an edit as a LoRA file, and bring it back."""

from __future__ import annotations

from ..quickfix import NAMINGS, PRECISIONS, load_edit, save_edit
from .api import Node, WeightEditType, edit_output, io, reporting, saved_ui, schema
from .edit_inputs import clip_input, model_input, strength_input
from .host.editing.door_edits import apply_stored
from .host.editing.encoder_edits import measured_encoders
from .host.files import free_lora, lora_files, lora_path


class SaveEditAsLoRA(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_SaveEditAsLoRA",
            display_name="Save Edit as LoRA",
            category="Diff-QuickFix/edit",
            search_aliases=["export edit", "share edit", "lora"],
            description=(
                "Saves an edit as a small LoRA that any UI loads, with its concepts, settings and report in it. Files "
                "are numbered and nothing is overwritten; LoRA loaders see them in output/loras."
            ),
            inputs=[
                WeightEditType.Input("edit", tooltip="From Remove Concept or another node that edits, or Load Edit."),
                io.String.Input(
                    "name", default="diff-quickfix/edit", tooltip='Beginning of the file\'s name; "/" makes a folder.'
                ),
                io.Combo.Input(
                    "naming",
                    options=list(NAMINGS),
                    default=NAMINGS[0],
                    tooltip="What the file calls the weight. kohya: every UI and diffusers know it. comfyui: ComfyUI's "
                    "own names.",
                ),
                io.Float.Input(
                    "energy",
                    default=1.0,
                    min=0.5,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    tooltip="Share of the edit that is kept. 1: all of it, exactly; 0.999 makes a much smaller file.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="fp32",
                    tooltip="Numbers in the file. fp32 is exact; fp16 and bf16 halve the file.",
                ),
            ],
            outputs=[
                # Of any type: the LoRA loaders' menus take no text, and a link makes no list of files go stale.
                io.AnyType.Output(
                    id="lora_name",
                    display_name="lora_name",
                    tooltip="The file's name, for lora_name of a LoRA loader or file of Load Edit.",
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, edit, name: str, naming: str, energy: float, precision: str) -> io.NodeOutput:
        lora_name, path = free_lora(name)
        save_edit(edit, path, naming=naming, energy=energy, dtype=PRECISIONS[precision])
        return io.NodeOutput(lora_name, ui=saved_ui(path))


class LoadEdit(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_LoadEdit",
            display_name="Load Edit",
            category="Diff-QuickFix/edit",
            search_aliases=["load lora", "open edit"],
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Loads a file of Save Edit as LoRA: applies it like a LoRA loader, measures it on this model, and "
                "gives the edit with its concepts and settings."
            ),
            inputs=[
                clip_input(),
                io.Combo.Input(
                    "file", options=lora_files(), tooltip="The file, among ComfyUI's LoRAs. Only saved edits will do."
                ),
                strength_input(),
                model_input("Needed for an edit of Remove Concept or Edit Image Model."),
            ],
            outputs=[
                io.Clip.Output(id="edited_clip", display_name="clip", tooltip="The edited text encoder."),
                WeightEditType.Output(id="edit", display_name="edit", tooltip="The edit, as it was when saved."),
                io.String.Output(
                    id="report", display_name="report", tooltip="What the edit does, measured on this model."
                ),
                io.Model.Output(
                    id="edited_model", display_name="model", tooltip="The model, edited where the file edits it."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None, **_) -> str:
        try:
            found = lora_path(file or "").stat()
        except ValueError:
            return ""
        return f"{found.st_mtime_ns} {found.st_size}"

    @classmethod
    @reporting
    def execute(cls, clip, file: str, strength: float, model=None) -> io.NodeOutput:
        edit = load_edit(lora_path(file))
        if edit.of_states:
            edited, report, note = apply_stored(model, clip, edit, strength)
            output = edit_output(clip.clone(), edit, [report], note)
            return io.NodeOutput(*output.args, edited, ui=output.ui)
        edited_clip, reports, note = measured_encoders(clip, edit, strength)
        output = edit_output(edited_clip, edit, reports, note)
        return io.NodeOutput(*output.args, model if model is None else model.clone(), ui=output.ui)
