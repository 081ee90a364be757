"""Nodes that look after everything that an edit is not about, and say what it does."""

from __future__ import annotations

import json

import torch

from ..quickfix import ENCODERS, KNOWN_NAMES, PRESERVE_SETS, Hit, prompts_of_text, scan, text_of_prompts
from ..quickfix.measure.charts import draw_report
from .api import Node, WeightEditType, image_of, io, report_ui, reporting, schema
from .edit_inputs import model_input
from .host.editing.door_edits import towers_of
from .host.inputs import NO_FILE, modified, read_text_file, text_files
from .host.progress import progress_bar


class PreserveSet(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_PreserveSet",
            display_name="Preserve Set",
            category="Diff-QuickFix/edit",
            search_aliases=["keep prompts", "protect concepts", "retain set"],
            description="Gathers prompts that an edit must leave alone: built-in sets, your own prompts, a text file.",
            inputs=[
                io.Boolean.Input(
                    "empty_prompt", default=True, tooltip="The empty prompt, the negative prompt of most pictures."
                ),
                io.Boolean.Input(
                    "everyday_captions", default=False, tooltip="Plain captions of people, animals, things and places."
                ),
                io.Boolean.Input(
                    "colors_counts_places",
                    default=False,
                    tooltip="Colored things, numbers of things, where they stand.",
                ),
                io.Boolean.Input(
                    "common_styles",
                    default=False,
                    tooltip="Well-known artists and looks; an edited one is left out by itself.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    optional=True,
                    placeholder="prompts: more to preserve, one on each line, e.g. a photo of a dog",
                    tooltip='More prompts, one on each line. A line with "" is the empty prompt.',
                ),
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *text_files()],
                    default=NO_FILE,
                    optional=True,
                    tooltip="A .txt file in ComfyUI's input folder, one prompt on each line.",
                ),
            ],
            outputs=[
                io.String.Output(
                    id="preserve",
                    display_name="preserve",
                    tooltip="The prompts, one on each line, for `preserve` of the nodes that edit.",
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str = NO_FILE, **_) -> float:
        return modified(file)

    @classmethod
    def execute(
        cls,
        empty_prompt: bool,
        everyday_captions: bool,
        colors_counts_places: bool,
        common_styles: bool,
        prompts: str = "",
        file: str = NO_FILE,
    ) -> io.NodeOutput:
        wanted = (empty_prompt, everyday_captions, colors_counts_places, common_styles)
        chosen = [
            prompt for use, name in zip(wanted, PRESERVE_SETS, strict=True) if use for prompt in PRESERVE_SETS[name]
        ]
        chosen += prompts_of_text(prompts)
        if file != NO_FILE:
            chosen += prompts_of_text(read_text_file(file))
        return io.NodeOutput(text_of_prompts(tuple(dict.fromkeys(chosen))))


class CollateralRadar(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CollateralRadar",
            display_name="Collateral Radar",
            category="Diff-QuickFix/edit",
            search_aliases=["side effects", "collateral damage", "neighbors"],
            has_intermediate_output=True,
            is_output_node=True,
            description=(
                "Ranks hundreds of names, things and captions by how far an edit moves them, without painting, and "
                "proposes the worst hits as prompts to preserve in the next edit."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder that the edit was computed for, edited or not."),
                WeightEditType.Input("edit", tooltip="From Remove Concept or another node that edits."),
                io.Int.Input("hits", default=20, min=1, max=1000, tooltip="How many of the worst hits to list."),
                io.String.Input(
                    "names",
                    multiline=True,
                    optional=True,
                    placeholder="names: names or captions to look at, one on each line, e.g. claude monet",
                    tooltip="Names or captions to look at, one on each line. Empty: a built-in list of "
                    "well-known artists, things, looks and everyday captions.",
                ),
                model_input("Needed where it makes other states of the text first: Z-Image, Anima and others."),
            ],
            outputs=[
                io.String.Output(id="report", display_name="report", tooltip="The worst hits, with how far they move."),
                io.String.Output(
                    id="preserve",
                    display_name="preserve",
                    tooltip="What is worth preserving, for the `preserve` of another node that edits.",
                ),
            ],
        )

    @classmethod
    @reporting
    def execute(cls, clip, edit, hits: int, names: str = "", model=None) -> io.NodeOutput:
        prompts, progress = prompts_of_text(names) or KNOWN_NAMES, progress_bar()
        radars = [
            scan(tower, tokenizer, part, prompts, most=hits, progress=progress)
            for part, tower, tokenizer in towers_of(clip, edit, model)
        ]
        heads = [f"{ENCODERS[part.encoder].full_title}\n" if edit.others else "" for part in edit.parts]
        report = "\n\n".join(head + radar.text() for head, radar in zip(heads, radars, strict=True))
        proposed = dict.fromkeys(prompt for radar in radars for prompt in radar.proposal())
        # Of a name that several encoders move, the farthest.
        every = sorted((hit for radar in radars for hit in radar.hits), key=lambda hit: -hit.drift)
        worst: dict[str, Hit] = {}
        for hit in every:
            worst.setdefault(hit.prompt, hit)
        shown = {"hits": [[*hit] for hit in list(worst.values())[:hits]]}
        return io.NodeOutput(report, text_of_prompts(tuple(proposed)), ui=report_ui(report, shown))


class EditReportNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_EditReport",
            display_name="Edit Report",
            category="Diff-QuickFix/edit",
            search_aliases=["edit quality", "efficacy", "specificity"],
            has_intermediate_output=True,
            is_output_node=True,
            description="Shows the report of an edit as text, as JSON and as a picture.",
            inputs=[
                WeightEditType.Input("edit", tooltip="From Remove Concept or another node that edits."),
                io.Int.Input("width", default=900, min=400, max=4000, step=50, tooltip="Width in pixels."),
            ],
            outputs=[
                io.String.Output(id="report", display_name="report", tooltip="The report in words, the verdict first."),
                io.String.Output(id="json", display_name="json", tooltip="The report as JSON."),
                io.Image.Output(id="picture", display_name="picture", tooltip="The report as bars."),
            ],
        )

    @classmethod
    @reporting
    def execute(cls, edit, width: int) -> io.NodeOutput:
        title = ", ".join(f"{concept.source} -> {concept.target}" for concept in edit.concepts[:20])
        heads = [f"{ENCODERS[part.encoder].full_title}: {title}" if edit.others else title for part in edit.parts]
        pictures = [
            image_of(draw_report(part.report, width=width, title=head))
            for part, head in zip(edit.parts, heads, strict=True)
        ]
        text = "\n\n".join(part.report.text() for part in edit.parts)
        first, *others = (part.report.as_dict() for part in edit.parts)
        measures = json.dumps({**first, "others": others} if others else first, indent=2)
        return io.NodeOutput(text, measures, torch.cat(pictures, dim=1), ui=report_ui(text))
