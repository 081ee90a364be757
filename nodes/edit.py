"""The editing node."""

from __future__ import annotations

from ..quickfix import PRESERVE_MODES
from .api import Node, WeightEditType, edit_output, io, reporting, schema
from .edit_inputs import (
    concepts_input,
    edit_settings,
    kind_input,
    layer_input,
    positions_input,
    preserve_input,
    preserve_mode_input,
    source_input,
    strength_input,
    target_input,
    templates_input,
    wanted_concepts,
)
from .host.editing.encoder_edits import edit_encoders
from .host.editing.text_encoder import ENCODER_CHOICES
from .host.progress import progress_bar


class DiffQuickFixEdit(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_Edit",
            display_name="Diff-QuickFix Edit",
            category="Diff-QuickFix/edit",
            search_aliases=[
                "remove concept",
                "erase concept",
                "unlearn",
                "remove style",
                "delete",
                "forget",
                "replace",
                *("erase", "remove artist", "delete artist", "censor", "trademark", "concept ablation", "uce", "clip"),
            ],
            # ComfyUI 0.19: the report is shown again after a reload, and when the node's result was cached.
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Removes or replaces a concept in the CLIP text encoder by one closed-form update, in well under a "
                "second. The given CLIP is not changed. For Stable Diffusion 1.x and 2.x; the CLIPs of SDXL, SD 3 and "
                "Flux too, where Remove Concept is surer."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder to edit. LoRA nodes may stand before or after."),
                source_input(),
                target_input(),
                kind_input(),
                io.Combo.Input(
                    "preset",
                    options=["guarded", "paper", "auto"],
                    default="guarded",
                    tooltip="guarded: keeps everyday prompts and the empty prompt in place. "
                    "paper: the published settings (lambda 0.01, nothing preserved). "
                    "auto: guarded, with the lambda that Find Lambda finds.",
                ),
                layer_input(),
                io.Float.Input(
                    "lam",
                    display_name="lambda",
                    default=0.0,
                    min=0.0,
                    max=1000.0,
                    step=0.001,
                    round=False,
                    advanced=True,
                    tooltip="How strongly the old weight is kept. Larger is gentler. 0: the preset's value.",
                ),
                positions_input(),
                strength_input(),
                preserve_input(),
                templates_input(),
                preserve_mode_input(),
                concepts_input(),
                io.Combo.Input(
                    "encoder",
                    options=list(ENCODER_CHOICES),
                    default=ENCODER_CHOICES[0],
                    optional=True,
                    advanced=True,
                    tooltip="Which text encoder is edited, of models that have several (SDXL, SD 3). auto: all of "
                    "CLIP's kind. For Flux it is the CLIP-L, of which Flux reads one vector.",
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
    @reporting
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
        encoder: str = ENCODER_CHOICES[0],
    ) -> io.NodeOutput:
        wanted = wanted_concepts(source, target, kind, templates, concepts)
        settings = edit_settings(preset, layer, lam, positions, preserve, preserve_mode)
        edited, edit = edit_encoders(clip, wanted, settings, encoder, strength, progress_bar())
        return edit_output(edited, edit)
