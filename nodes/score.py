"""Nodes that judge pictures: score them, or show them beside each other."""

from __future__ import annotations

from .api import ImageScorerType, Node, image_of, io, report_ui, schema
from .host.scorers import FolderScorer, ShapesImageScorer, VisionScorer, clip_folders
from .host.sheet import sheet_of

NO_FOLDER = "(no CLIP folder found)"


def _words_input() -> io.Input:
    return io.String.Input(
        "words",
        default="",
        optional=True,
        tooltip='What pictures are compared with, such as "a van gogh painting". Empty: the whole prompt.',
    )


def _scorer_output() -> io.Output:
    return ImageScorerType.Output(id="scorer", display_name="scorer", tooltip="For a causal trace.")


class ShapesScorerNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_ShapesScorer",
            display_name="Shapes Scorer",
            category="Diff-QuickFix/score",
            description="Scores pictures of the Shapes demo model with the CLIP that it was trained with.",
            inputs=[_words_input()],
            outputs=[_scorer_output()],
        )

    @classmethod
    def execute(cls, words: str = "") -> io.NodeOutput:
        return io.NodeOutput(ShapesImageScorer(words))


class LoadClipScorer(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_LoadCLIPScorer",
            display_name="Load CLIP Scorer",
            category="Diff-QuickFix/score",
            search_aliases=["clipscore"],
            description=(
                "Scores pictures by a CLIP of transformers' format (config.json, model.safetensors, tokenizer) in a "
                "folder of ComfyUI's models. Nothing is downloaded."
            ),
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=list(clip_folders()) or [NO_FOLDER],
                    tooltip="A folder in models/clip_vision, models/text_encoders or models/diffusers.",
                ),
                _words_input(),
            ],
            outputs=[_scorer_output()],
        )

    @classmethod
    def execute(cls, folder: str, words: str = "") -> io.NodeOutput:
        folders = clip_folders()
        if folder not in folders:
            raise ValueError(
                f"There is no CLIP {folder!r}. Copy one in transformers' format, such as openai/clip-vit-large-patch14 "
                "with model.safetensors, into a folder of its own in models/clip_vision, and reload the page."
            )
        return io.NodeOutput(FolderScorer(folders[folder], words))


class ClipVisionScorer(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CLIPVisionScorer",
            display_name="CLIP Vision Scorer",
            category="Diff-QuickFix/score",
            search_aliases=["clipscore"],
            description=(
                "Scores pictures by the two towers of one CLIP as ComfyUI loads them: CLIP_VISION, and a CLIP file "
                "that has its text projection."
            ),
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="From Load CLIP Vision."),
                io.Clip.Input(
                    "clip",
                    tooltip="The same CLIP's text encoder, from Load CLIP. That of a Stable "
                    "Diffusion 1.x checkpoint lacks the projection and is refused.",
                ),
                _words_input(),
            ],
            outputs=[_scorer_output()],
        )

    @classmethod
    def execute(cls, clip_vision, clip, words: str = "") -> io.NodeOutput:
        return io.NodeOutput(VisionScorer(clip_vision, clip, words))


class ClipScore(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_CLIPScore",
            display_name="CLIP Score",
            category="Diff-QuickFix/score",
            description="Scores each picture of a batch against a prompt.",
            inputs=[
                ImageScorerType.Input("scorer", tooltip="What scores."),
                io.Image.Input("images", tooltip="The pictures."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    placeholder="prompt: what the pictures should show",
                    tooltip="What they should show.",
                ),
            ],
            outputs=[
                io.Float.Output(id="mean", display_name="mean", tooltip="The mean score of the batch."),
                io.String.Output(id="scores", display_name="scores", tooltip="The score of each picture, one a line."),
            ],
        )

    @classmethod
    def execute(cls, scorer, images, prompt: str) -> io.NodeOutput:
        scores = scorer(images, prompt)
        return io.NodeOutput(float(scores.mean()), "\n".join(f"{value:.4f}" for value in scores.tolist()))


class BeforeAfterSheet(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DiffQuickFix_BeforeAfterSheet",
            display_name="Before/After Sheet",
            category="Diff-QuickFix/score",
            search_aliases=["compare images", "grid", "contact sheet", "xy plot", "difference", "side by side"],
            has_intermediate_output=True,
            description=(
                "Puts pictures of the same prompts and seeds on one labelled sheet: a row for each picture of the "
                "batches, a column for each batch. Says how much each changed beside the first column."
            ),
            inputs=[
                io.Image.Input("before", tooltip="The pictures that the others are compared with: without the edit."),
                io.Image.Input("after", tooltip="The same prompts and seeds with the edit: as many, of the same size."),
                io.String.Input(
                    "columns",
                    default="before | after",
                    tooltip="What stands above the columns, divided by |.",
                ),
                io.String.Input(
                    "rows",
                    multiline=True,
                    placeholder="rows: what stands above each, one a line",
                    tooltip="What stands above each row, one a line: the prompts. Empty: nothing. Any script; what no "
                    "font on this machine has becomes a square, and the report says so.",
                ),
                io.Image.Input("third", optional=True, tooltip="One more column: another strength, another edit."),
                io.Image.Input("fourth", optional=True, tooltip="One more column."),
            ],
            outputs=[
                io.Image.Output(id="sheet", display_name="sheet", tooltip="The sheet, as one picture."),
                io.String.Output(
                    id="report",
                    display_name="report",
                    tooltip="How much the pictures changed: one sentence for all, then each row. Layout and color: "
                    "waves of fewer than eight to the shorter side; texture: all finer ones.",
                ),
            ],
        )

    @classmethod
    def execute(cls, before, after, columns: str, rows: str, third=None, fourth=None) -> io.NodeOutput:
        given = {"before": before, "after": after, "third": third, "fourth": fourth}
        there = {name: images for name, images in given.items() if images is not None}
        sheet, report = sheet_of(there, columns, rows)
        return io.NodeOutput(image_of(sheet), report, ui=report_ui(report))
