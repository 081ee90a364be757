"""Nodes that find an edit's lambda and its target, without painting."""

from __future__ import annotations

from ..quickfix import PRESERVE_MODES, find_lambda, find_target, prompts_of_text
from ..quickfix.measure.charts import draw_curve, draw_targets
from .api import Node, image_of, io, report_ui, reporting, schema
from .edit_inputs import (
    clip_input,
    concepts_input,
    edit_settings,
    kind_input,
    layer_input,
    positions_input,
    preserve_input,
    preserve_mode_input,
    settled_preset_input,
    source_input,
    target_input,
    template_lines,
    templates_input,
    wanted_concepts,
)
from .host.editing.text_encoder import open_text_encoder
from .host.progress import progress_bar

_NAMED = 20


class FindLambda(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_FindLambda",
            display_name="Find Lambda",
            category="Diff-QuickFix/edit",
            search_aliases=["regularization", "tune", "sweep"],
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Shows how far an edit goes and how much it moves everyday prompts, for every lambda, from one "
                "decomposition, and gives the lambda at the knee. The preset auto of Diff-QuickFix Edit uses the same."
            ),
            inputs=[
                clip_input(),
                source_input(),
                target_input(),
                kind_input(),
                settled_preset_input(),
                layer_input(),
                positions_input(),
                preserve_input(),
                preserve_mode_input(),
                templates_input(),
                concepts_input(),
            ],
            outputs=[
                io.Float.Output(id="lam", display_name="lambda", tooltip="The lambda at the knee."),
                io.Image.Output(
                    id="curve", display_name="curve", tooltip="Efficacy and drift over lambda, the knee marked."
                ),
                io.String.Output(id="report", display_name="report", tooltip="The same as a table."),
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
        positions: str,
        preserve: str = "",
        preserve_mode: str = PRESERVE_MODES[0],
        templates: str = "",
        concepts=None,
    ) -> io.NodeOutput:
        wanted = wanted_concepts(source, target, kind, templates, concepts)
        settings = edit_settings(preset, layer, 0.0, positions, preserve, preserve_mode)
        encoder = open_text_encoder(clip)
        curve = find_lambda(encoder.tower, encoder.tokenizer, wanted, settings, progress=progress_bar())
        title = ", ".join(f"{concept.source} -> {concept.target}" for concept in wanted[:_NAMED])
        report = curve.text()
        return io.NodeOutput(curve.best, image_of(draw_curve(curve, title=title)), report, ui=report_ui(report))


class FindTarget(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_FindTarget",
            display_name="Find Target",
            category="Diff-QuickFix/edit",
            search_aliases=["best target", "replace with", "candidates"],
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Ranks words that a concept could become, without painting: how much of the concept each would remove, "
                "what it would bring along, and how much it would move everything else."
            ),
            inputs=[
                clip_input(),
                source_input(),
                kind_input(),
                settled_preset_input(),
                layer_input(),
                positions_input(),
                io.String.Input(
                    "candidates",
                    multiline=True,
                    optional=True,
                    placeholder="candidates: words that the concept could become, one on each line, e.g. painting",
                    tooltip="Words that the concept could become, one on each line. Empty: a built-in "
                    "list of plain words for the kind.",
                ),
                preserve_input(),
                preserve_mode_input(),
                templates_input(),
            ],
            outputs=[
                io.String.Output(
                    id="target",
                    display_name="target",
                    tooltip="The best candidate, for the `target` of Diff-QuickFix Edit.",
                ),
                io.Float.Output(
                    id="lam",
                    display_name="lambda",
                    tooltip="Its lambda at the knee, for the `lambda` of Diff-QuickFix Edit.",
                ),
                io.String.Output(id="report", display_name="report", tooltip="All candidates as a table, best first."),
                io.Image.Output(
                    id="picture",
                    display_name="picture",
                    tooltip="Removal against drift, a point for each candidate, the best one marked.",
                ),
            ],
        )

    @classmethod
    @reporting
    def execute(
        cls,
        clip,
        source: str,
        kind: str,
        preset: str,
        layer: int,
        positions: str,
        candidates: str = "",
        preserve: str = "",
        preserve_mode: str = PRESERVE_MODES[0],
        templates: str = "",
    ) -> io.NodeOutput:
        settings = edit_settings(preset, layer, 0.0, positions, preserve, preserve_mode)
        encoder = open_text_encoder(clip)
        ranking = find_target(
            encoder.tower,
            encoder.tokenizer,
            source,
            kind,
            prompts_of_text(candidates),
            settings,
            templates=template_lines(templates),
            progress=progress_bar(),
        )
        best, report = ranking.best, ranking.text()
        picture = image_of(draw_targets(ranking))
        return io.NodeOutput(best.target, best.lam, report, picture, ui=report_ui(report))
