"""Nodes that remove a concept from an image model, whatever its family: at its doors, or in its conditioning."""

from __future__ import annotations

import dataclasses

from ..quickfix import AUTO_BREADTH, POSITIONS, PRESERVE_MODES
from .api import Node, WeightEditType, io, report_ui, reporting, schema
from .edit_inputs import (
    breadth_input,
    concepts_input,
    kind_input,
    preserve_input,
    preserve_mode_input,
    strength_input,
    templates_input,
    wanted_concepts,
)
from .host.editing.concept_removal import DOOR_CHOICES, WAYS, Removed, edit_doors_of, remove_concept
from .host.editing.conditioning import apply_to_conditioning
from .host.progress import progress_bar


def model_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="The model that paints. LoRA nodes may stand before or after."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
    ]


def outputs() -> list[io.Output]:
    return [
        io.Model.Output(id="edited_model", display_name="model", tooltip="The model without the concept."),
        io.Clip.Output(id="edited_clip", display_name="clip", tooltip="The text encoder that goes with it."),
        WeightEditType.Output(id="edit", display_name="edit", tooltip="The edit itself, with its report."),
        io.String.Output(
            id="report", display_name="report", tooltip="What the edit does, measured before any picture is made."
        ),
    ]


def lambda_input() -> io.Input:
    return io.Float.Input(
        "lam",
        display_name="lambda",
        default=0.0,
        min=0.0,
        max=1000.0,
        step=0.0001,
        round=False,
        advanced=True,
        tooltip="How strongly the old weights are kept. Larger is gentler. 0: chosen for the way of editing.",
    )


def concept_input() -> io.Input:
    return io.String.Input(
        "concept", default="van gogh", tooltip="What to remove, as prompts write it: a style, a thing, a name."
    )


def becomes_input() -> io.Input:
    return io.String.Input(
        "becomes",
        default="painting",
        tooltip='What it becomes. For a style, "painting"; for a character, its kind ("dog"). Empty: the kind\'s own '
        "default.",
    )


def guarding_inputs(breadth: str) -> list[io.Input]:
    """How strongly and what is kept, and more concepts: the last inputs of a node that edits an image model.

    Args:
        breadth: the list of names that is chosen at first.
    """
    return [
        *(lambda_input(), preserve_input(), templates_input(), preserve_mode_input(), concepts_input()),
        breadth_input(breadth),
    ]


def removed_output(removed: Removed) -> io.NodeOutput:
    """What the nodes that edit an image model give: MODEL, CLIP, the edit with its report, and the report in words."""
    text = removed.note + removed.report.text()
    edit = dataclasses.replace(removed.edit, report=removed.report)
    return io.NodeOutput(removed.model, removed.clip, edit, text, ui=report_ui(text, removed.report.as_dict()))


class RemoveConcept(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_RemoveConcept",
            display_name="Remove Concept",
            category="Diff-QuickFix/edit",
            search_aliases=[
                *(
                    "delete",
                    "remove",
                    "erase",
                    "forget",
                    "unlearn",
                    "replace",
                    "censor",
                    "artist",
                    "style",
                    "character",
                ),
                *("delete artist", "remove artist", "remove style", "replace concept", "forget concept", "nsfw"),
                *("trademark", "concept ablation", "uce", "negative prompt", "sdxl", "illustrious", "pony", "flux"),
            ],
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Removes or replaces a concept in a model by one solve in closed form, without training. "
                "Recognises the model and chooses where to edit it. The given MODEL and CLIP are not changed. For "
                "Stable Diffusion 1.x, 2.x, SDXL (Illustrious, NoobAI, Pony), Z-Image, Qwen-Image, Flux.1, Flux.2, "
                "Klein, Chroma, Anima, Krea 2, Stable Diffusion 3, Lumina 2, NewBie, Wan, Cosmos-Predict2, "
                "HunyuanImage, LongCat, Ovis and PixArt."
            ),
            inputs=[
                *model_inputs(),
                concept_input(),
                becomes_input(),
                kind_input(),
                strength_input(),
                io.Combo.Input(
                    "way",
                    options=list(WAYS),
                    default=WAYS[0],
                    advanced=True,
                    tooltip="Where the model is edited. auto: what is known to work best for this model and kind. "
                    "image model: where the text enters it. text encoder: the paper's way, for Stable Diffusion 1.x "
                    "and 2.x.",
                ),
                *guarding_inputs(AUTO_BREADTH),
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
        way: str = WAYS[0],
        lam: float = 0.0,
        preserve: str = "",
        templates: str = "",
        preserve_mode: str = PRESERVE_MODES[0],
        concepts=None,
        breadth: str = AUTO_BREADTH,
    ) -> io.NodeOutput:
        removed = remove_concept(
            (model, clip),
            wanted_concepts(concept, becomes, kind, templates, concepts),
            way,
            lam,
            (preserve, preserve_mode, breadth),
            strength,
            progress=progress_bar(),
        )
        return removed_output(removed)


class EditImageModel(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_EditImageModel",
            display_name="Edit Image Model",
            category="Diff-QuickFix/edit",
            search_aliases=[
                "doors",
                "remove concept",
                "concept ablation",
                "cross attention edit",
                "uce",
                "locoedit",
                "txt_in",
                "to_v",
                "to_k",
            ],
            has_intermediate_output=True,
            is_output_node=True,
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
                    "where the model has one. Keys decide where a word acts; editing them moves other words too. "
                    "conditioning alone: no weight; for Apply Edit to Conditioning.",
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
                *guarding_inputs("none"),
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
        breadth: str = "none",
    ) -> io.NodeOutput:
        removed = edit_doors_of(
            (model, clip),
            wanted_concepts(concept, becomes, kind, templates, concepts),
            (maps, names),
            (positions, lam),
            (preserve, preserve_mode, breadth),
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
