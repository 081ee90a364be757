"""Nodes for those who choose where an image model is edited, and for models that are not edited in their weights."""

from __future__ import annotations

from ..quickfix import POSITIONS, PRESERVE_MODES
from .api import Node, WeightEditType, io, reporting, schema
from .edit_inputs import (
    concepts_input,
    kind_input,
    preserve_input,
    preserve_mode_input,
    strength_input,
    templates_input,
)
from .host.concept_removal import DOOR_CHOICES, edit_doors_of
from .host.conditioning import apply_to_conditioning
from .host.progress import progress_bar
from .remove_concept import becomes_input, concept_input, lambda_input, model_inputs, outputs, removed_output, wanted


class EditImageModel(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_EditImageModel",
            display_name="Edit Image Model",
            category="Diff-QuickFix/edit",
            search_aliases=["doors", "cross attention edit", "uce", "locoedit", "txt_in", "to_v", "to_k"],
            has_intermediate_output=True,
            description=(
                "Removes or replaces a concept where the text enters an image model, at the linear maps that you "
                "choose. Remove Concept chooses by itself."
            ),
            inputs=[
                *model_inputs(),
                concept_input(),
                becomes_input(),
                kind_input(),
                strength_input(),
                io.Combo.Input(
                    "maps",
                    options=list(DOOR_CHOICES),
                    default="default",
                    tooltip="Which maps are edited. default: the values of the cross-attentions, and the pooled vector "
                    "where the model has one. Keys decide where a word acts; editing them moves other words too.",
                ),
                io.String.Input(
                    "names",
                    default="*",
                    tooltip="Names of the maps, * and ? allowed, divided by commas: output_blocks.1.* for one block.",
                ),
                io.Combo.Input(
                    "positions",
                    options=list(POSITIONS),
                    default=POSITIONS[0],
                    tooltip="Which token positions of a caption are edited. Styles go with the last subject token "
                    "alone; things need what stands behind it too.",
                ),
                lambda_input(),
                preserve_input(),
                templates_input(),
                preserve_mode_input(),
                concepts_input(),
            ],
            outputs=outputs(),
        )

    @classmethod
    @reporting
    def execute(
        cls,
        model,
        clip,
        concept: str,
        becomes: str,
        kind: str,
        strength: float,
        maps: str,
        names: str,
        positions: str,
        lam: float = 0.0,
        preserve: str = "",
        templates: str = "",
        preserve_mode: str = PRESERVE_MODES[0],
        concepts=None,
    ) -> io.NodeOutput:
        removed = edit_doors_of(
            (model, clip),
            wanted(concept, becomes, kind, templates, concepts),
            (maps, names),
            (positions, lam),
            (preserve, preserve_mode),
            strength,
            progress=progress_bar(),
        )
        return removed_output(removed)


class ApplyEditToConditioning(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_ApplyToConditioning",
            display_name="Apply Edit to Conditioning",
            category="Diff-QuickFix/edit",
            search_aliases=["edit conditioning", "edit one prompt", "timestep range"],
            description=(
                "Applies an edit of an image model to one conditioning, with no weight touched: as if all maps that "
                "read the text were edited, keys too. For one prompt, a range of steps, or models whose weights are "
                "quantized."
            ),
            inputs=[
                io.Conditioning.Input("conditioning", tooltip="Encoded by the CLIP that the edit was made with."),
                WeightEditType.Input("edit", tooltip="From Remove Concept (way image model) or Edit Image Model."),
                strength_input(),
            ],
            outputs=[
                io.Conditioning.Output(
                    id="edited_conditioning", display_name="conditioning", tooltip="The edited conditioning."
                )
            ],
        )

    @classmethod
    def execute(cls, conditioning, edit, strength: float) -> io.NodeOutput:
        return io.NodeOutput(apply_to_conditioning(conditioning, edit, strength))
