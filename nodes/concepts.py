"""Nodes that gather concepts to edit."""

from __future__ import annotations

from ..quickfix import ConceptEdit, ConceptList, combine, parse_concepts, read_concepts
from ..quickfix.concepts.lists import READERS
from ..quickfix.concepts.typed import refuse_syntax
from .api import ConceptEditsType, Node, io, schema
from .edit_inputs import kind_input, source_input, target_input, template_lines, templates_input
from .host.inputs import NO_FILE, input_path, modified, text_files

_LISTED = 20


def describe(read: ConceptList) -> str:
    """A list of concepts in words, shortened, and what was noticed about it."""
    lines = [f"{len(read.concepts)} concept{'s' * (len(read.concepts) != 1)}"]
    for concept in read.concepts[:_LISTED]:
        weight = f", weight {concept.weight:g}" if concept.weight != 1 else ""
        lines.append(f"{concept.source} -> {concept.target} ({concept.kind}{weight})")
    if len(read.concepts) > _LISTED:
        lines.append(f"and {len(read.concepts) - _LISTED} more")
    return "\n".join([*lines, *read.notes])


class ConceptEditList(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_ConceptEditList",
            display_name="Concept Edit List",
            category="Diff-QuickFix/edit",
            search_aliases=["many concepts", "remove styles", "delete artists", "several concepts", "bulk edit", "csv"],
            description=(
                "Many concepts to edit at once, one on each line or from a file. Give them to Remove Concept or to "
                "Diff-QuickFix Edit."
            ),
            inputs=[
                io.String.Input(
                    "edits",
                    multiline=True,
                    default="van gogh -> painting\nclaude monet -> painting",
                    placeholder="edits: one on each line, e.g. van gogh -> painting",
                    tooltip="One edit on each line: van gogh -> painting. More after bars: snoopy -> dog | "
                    "kind=object | weight=2 | template=a drawing of {x}. Lines with # are comments.",
                ),
                io.Combo.Input(
                    "file",
                    options=[NO_FILE, *text_files(tuple(READERS))],
                    default=NO_FILE,
                    tooltip="A .csv, .json or .txt file in ComfyUI's input folder; its edits come after the text's.",
                ),
            ],
            outputs=[
                ConceptEditsType.Output(
                    id="concepts",
                    display_name="concepts",
                    tooltip="For a node that edits, or for another Add Concept Edit.",
                ),
                io.String.Output(
                    id="report",
                    display_name="report",
                    tooltip="The edits that were read, and what was noticed about them.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, edits: str = "", file: str = NO_FILE) -> tuple[str, str, float]:
        return edits, file, modified(file)

    @classmethod
    def execute(cls, edits: str, file: str) -> io.NodeOutput:
        read = parse_concepts(edits)
        if file != NO_FILE:
            more = read_concepts(input_path(file, tuple(READERS)))
            both = combine(read.concepts, more.concepts)
            read = ConceptList(both.concepts, (*read.notes, *more.notes, *both.notes))
        if not read.concepts:
            raise ValueError("The list holds no edit. Write one on each line, such as: van gogh -> painting")
        return io.NodeOutput(read.concepts, describe(read))


class AddConceptEdit(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_AddConceptEdit",
            display_name="Add Concept Edit",
            category="Diff-QuickFix/edit",
            search_aliases=["chain concepts", "concept"],
            description="One more concept to edit. Nodes of this kind can be chained.",
            inputs=[
                source_input("claude monet"),
                target_input(),
                kind_input(),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=0.001,
                    max=1000.0,
                    step=0.1,
                    round=False,
                    tooltip="How much the concept counts beside the others.",
                ),
                ConceptEditsType.Input(
                    "concepts",
                    optional=True,
                    tooltip="The concepts so far, from Concept Edit List or Add Concept Edit.",
                ),
                templates_input(),
            ],
            outputs=[
                ConceptEditsType.Output(
                    id="more_concepts", display_name="concepts", tooltip="The concepts so far and this one."
                )
            ],
        )

    @classmethod
    def execute(
        cls, source: str, target: str, kind: str, weight: float, concepts=(), templates: str = ""
    ) -> io.NodeOutput:
        concept = ConceptEdit(source, target.strip() or None, kind, template_lines(templates), weight)
        refuse_syntax((source, target))
        return io.NodeOutput(combine(concepts or (), (concept,)).concepts)
