"""Nodes that find an edit's lambda and its target, without painting."""

from __future__ import annotations

from ..quickfix import POSITIONS, PRESERVE_MODES, common_kind, find_lambda, find_target, kinds_of, prompts_of_text
from ..quickfix.concepts.typed import refuse_syntax
from ..quickfix.measure.charts import draw_curve, draw_targets
from .api import Node, image_of, io, report_ui, reporting, schema
from .edit_inputs import (
    DEFAULT_POSITIONS,
    breadth_input,
    clip_input,
    concepts_input,
    edit_settings,
    kind_input,
    layer_input,
    model_input,
    preserve_input,
    preserve_mode_input,
    searched_positions_input,
    settled_preset_input,
    source_input,
    target_input,
    template_lines,
    templates_input,
    wanted_concepts,
)
from .host.breadth import guarded_by_names, saying
from .host.editing.searches import Searched, open_searched
from .host.progress import progress_bar

_NAMED = 20
_MODEL = "Connect it to search for Remove Concept or Edit Image Model; without it, for Diff-QuickFix Edit."


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
                searched_positions_input(),
                preserve_input(),
                preserve_mode_input(),
                templates_input(),
                concepts_input(),
                model_input(_MODEL),
                breadth_input("none"),
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
        model=None,
        breadth: str = "none",
    ) -> io.NodeOutput:
        wanted = wanted_concepts(source, target, kind, templates, concepts)
        how = preset, layer, positions, preserve, preserve_mode
        tower, tokenizer, settings, note = _searched(clip, model, common_kind(wanted), *how)
        settings, said = guarded_by_names(settings, breadth, (tower, tokenizer), kinds_of(wanted), clip)
        curve = find_lambda(tower, tokenizer, wanted, settings, progress=saying(progress_bar()))
        title = ", ".join(f"{concept.source} -> {concept.target}" for concept in wanted[:_NAMED])
        report = note + said + curve.text()
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
                searched_positions_input(),
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
                model_input(_MODEL),
                breadth_input("none"),
            ],
            outputs=[
                io.String.Output(
                    id="target",
                    display_name="target",
                    tooltip="The best candidate, for the `target` of the node that edits.",
                ),
                io.Float.Output(
                    id="lam",
                    display_name="lambda",
                    tooltip="Its lambda at the knee, for the `lambda` of the node that edits.",
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
        model=None,
        breadth: str = "none",
    ) -> io.NodeOutput:
        refuse_syntax((source, *prompts_of_text(candidates)))
        how = preset, layer, positions, preserve, preserve_mode
        tower, tokenizer, settings, note = _searched(clip, model, kind, *how)
        settings, said = guarded_by_names(settings, breadth, (tower, tokenizer), [kind], clip)
        ranking = find_target(
            tower,
            tokenizer,
            source,
            kind,
            prompts_of_text(candidates),
            settings,
            templates=template_lines(templates),
            progress=progress_bar(),
        )
        best, report = ranking.best, note + said + ranking.text()
        picture = image_of(draw_targets(ranking))
        rows = [[one.target, one.removal, one.drift] for one in ranking.candidates]
        return io.NodeOutput(
            best.target, best.lam, report, picture, ui=report_ui(report, {"source": source, "targets": rows})
        )


def _searched(
    clip, model, kind: str, preset: str, layer: int, positions: str, preserve: str, preserve_mode: str
) -> Searched:
    """What a node searches, with the settings that its inputs ask for."""
    if model is not None and preset != "guarded":
        raise ValueError(
            f"The preset {preset} is one of text encoders; an edit of an image model is always guarded. Choose "
            "guarded, or take the model away."
        )
    chosen = None if positions == DEFAULT_POSITIONS else positions
    settings = edit_settings(preset, layer, 0.0, chosen or POSITIONS[1])
    found = open_searched(clip, model, kind, chosen, settings)
    return found._replace(settings=found.settings.keeping(prompts_of_text(preserve), preserve_mode))
