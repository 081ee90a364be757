"""Nodes that look at a causal trace, keep it, and hand its finding to the editor."""

from __future__ import annotations

from ..tracing.results.comparison import compare
from ..tracing.results.heatmap import draw_difference, draw_heatmap
from ..tracing.results.locate import locate
from ..tracing.results.tables import cell_table, trace_table
from ..tracing.results.trace_file import load_trace, save_trace
from .api import CausalTraceType, Node, image_of, io, saved_ui, schema
from .host.files import free_path, trace_files, trace_path
from .host.heatmap import heatmap_output, preview_ui
from .host.tracing.findings import doors_of, weights_of

VALUES = ("indirect effect", "recovery")


class CausalHeatmap(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CausalHeatmap",
            display_name="Causal Heatmap",
            category="Diff-QuickFix/trace",
            search_aliases=["heat map", "plot", "interpret", "attribution", "daam", "token"],
            description=(
                "Draws a causal trace: sites against tokens or steps. Cells that do not differ from the control are "
                "hatched; the strongest is outlined. On the node, the drawing answers to mouse and keyboard."
            ),
            # The drawing on the node is there without a node behind it, and again when the result was cached.
            is_output_node=True,
            inputs=[
                CausalTraceType.Input("trace", tooltip="From Causal Trace or Load Trace."),
                io.Combo.Input(
                    "value",
                    options=list(VALUES),
                    default=VALUES[0],
                    tooltip="indirect effect: what restoring brings back, in units of the score. recovery: "
                    "the same as a share of what the corruption took away.",
                ),
                io.Int.Input("width", default=1200, min=400, max=4000, step=50, tooltip="Width in pixels."),
                io.Image.Input(
                    "pictures",
                    optional=True,
                    tooltip="The examples of the Causal Trace node: shown on the node beside the cells they "
                    "belong to. Pictures of another trace are not shown.",
                ),
            ],
            outputs=[io.Image.Output(id="heatmap", display_name="heatmap", tooltip="The drawing.")],
        )

    @classmethod
    def execute(cls, trace, value: str, width: int, pictures=None) -> io.NodeOutput:
        return io.NodeOutput(
            image_of(draw_heatmap(trace, value=value, width=width)),
            ui={"diff_quickfix_heatmap": [heatmap_output(trace, pictures)]},
        )


class LocateCausalState(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_LocateCausalState",
            display_name="Locate Causal State",
            category="Diff-QuickFix/trace",
            description=(
                "The site with the largest average indirect effect. For a text encoder its layer can feed "
                "Diff-QuickFix Edit, for an image model its doors Edit Image Model."
            ),
            inputs=[
                CausalTraceType.Input("trace", tooltip="From Causal Trace or Load Trace."),
                io.Combo.Input(
                    "kind",
                    options=[
                        "self_attn",
                        "mlp",
                        "hidden",
                        "cross_attn",
                        "cross_context",
                        "feed_forward",
                        "resnet",
                        "block",
                        "any",
                        "tap",
                        "pooled",
                    ],
                    default="self_attn",
                    tooltip="Look among sites of this kind. Diff-QuickFix edits self-attention layers.",
                ),
            ],
            outputs=[
                io.Int.Output(id="layer", display_name="layer", tooltip="The layer, for Diff-QuickFix Edit."),
                io.String.Output(id="found_kind", display_name="kind", tooltip="The kind of the site."),
                io.String.Output(id="site", display_name="site", tooltip="The site's full name."),
                io.Float.Output(
                    id="confidence",
                    display_name="confidence",
                    tooltip="Share of bootstrap samples of the prompts in which this site is the strongest.",
                ),
                io.String.Output(id="report", display_name="report", tooltip="The finding in words."),
                io.String.Output(
                    id="doors",
                    display_name="doors",
                    tooltip="The maps to edit at the site, for names of Edit Image Model. A site without any stops "
                    "what is connected and says why.",
                ),
                io.String.Output(
                    id="tap_weights",
                    display_name="tap weights",
                    tooltip="What each tap of a text encoder (Krea 2, Flux.2) brings back, as a list with the mean 1.",
                ),
            ],
        )

    @classmethod
    def execute(cls, trace, kind: str) -> io.NodeOutput:
        found = locate(trace, None if kind == "any" else kind)
        doors, weights = doors_of(trace, found.site), weights_of(trace)
        report = "\n".join([found.text(), *doors.lines, *weights.lines])
        return io.NodeOutput(found.layer, found.kind, found.site, found.confidence, report, doors.value, weights.value)


class SaveTrace(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_SaveTrace",
            display_name="Save Trace",
            category="Diff-QuickFix/trace",
            description=(
                "Saves a causal trace to output/causal_traces (safetensors) and, if wanted, as a table. Nothing is "
                "overwritten: files are numbered."
            ),
            inputs=[
                CausalTraceType.Input("trace", tooltip="From Causal Trace."),
                io.String.Input("name", default="trace", tooltip="Beginning of the file's name."),
                io.Boolean.Input(
                    "csv",
                    default=False,
                    tooltip="Also write two CSV tables: every score, and what is said of every cell.",
                ),
            ],
            outputs=[
                # Of any type: a menu takes no text, and a link makes no list of files go stale.
                io.AnyType.Output(id="file", display_name="file", tooltip="The name of the file, for Load Trace.")
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, trace, name: str, csv: bool) -> io.NodeOutput:
        path = free_path(name)
        save_trace(trace, path)
        if csv:
            for suffix, table in ((".csv", trace_table), (".cells.csv", cell_table)):
                path.with_name(path.name.removesuffix(".safetensors") + suffix).write_text(
                    table(trace), encoding="utf-8"
                )
        return io.NodeOutput(path.name, ui=saved_ui(path))


class LoadTrace(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_LoadTrace",
            display_name="Load Trace",
            category="Diff-QuickFix/trace",
            description="Loads a causal trace from output/causal_traces.",
            inputs=[io.Combo.Input("file", options=trace_files(), tooltip="The trace.")],
            outputs=[CausalTraceType.Output(id="trace", display_name="trace", tooltip="The trace.")],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> float:
        # None: the name comes through a link.
        path = trace_path(file) if file else None
        return path.stat().st_mtime if path and path.exists() else 0.0

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_trace(trace_path(file)))


class CompareTraces(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CompareTraces",
            display_name="Compare Traces",
            category="Diff-QuickFix/trace",
            description=(
                "The difference of two traces' average indirect effects where they share sites and columns, as a table "
                "and as a map with one color scale."
            ),
            inputs=[
                CausalTraceType.Input("trace", tooltip="The first trace."),
                CausalTraceType.Input("other", tooltip="The trace that is taken off it."),
            ],
            outputs=[
                io.String.Output(id="table", display_name="table", tooltip="One line for each shared cell."),
                io.Image.Output(
                    id="map",
                    display_name="map",
                    tooltip="The difference as a drawing: white at zero, the same scale on both sides.",
                ),
                io.Float.Output(
                    id="rank_correlation",
                    display_name="rank correlation",
                    tooltip="Spearman's, of the two traces' effects in the shared cells: 1 where they rank them alike.",
                ),
            ],
        )

    @classmethod
    def execute(cls, trace, other) -> io.NodeOutput:
        difference = compare(trace, other)
        lines = ["site, column, difference of the average indirect effect"]
        for site, row in zip(difference.sites, difference.difference.tolist(), strict=True):
            lines += [f"{site}, {column}, {value:+.4f}" for column, value in zip(difference.columns, row, strict=True)]
        drawn = image_of(draw_difference(difference))
        return io.NodeOutput("\n".join(lines), drawn, difference.correlation, ui=preview_ui(drawn))
