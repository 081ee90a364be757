"""Take the pictures of the help pages, each node as it looks in ComfyUI after a run of the template that has it; and of
the README, a whole template.

    python3 scripts/bootstrap.py run --browser -- python scripts/help_pictures.py [ID ...]

Writes web/docs/ID.webp, of all nodes or of those named (without the prefix DiffQuickFix_); for README, docs/graph.webp
and docs/remove-a-concept.webp, the node beside the sheet that it gives. Ten minutes for all.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import real_page
import templates
from PIL import Image
from real_page import ComfyPage

ROOT = Path(__file__).resolve().parent.parent

PREFIX = "DiffQuickFix_"
DOCS = ROOT / "web" / "docs"
WIDTH, HEIGHT = 1500, 1300
LEFT, TOP = 140, 160  # where the node stands on the page: clear of ComfyUI's own bars
MARGIN, TITLE, GAP = 10, 30, 20
# Which template shows a node, and the titles of the nodes beside it that show what it gives.
SHOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "RemoveConcept": ("remove-a-concept", ()),
    "EditImageModel": ("edit-the-image-model", ()),
    "ApplyToConditioning": ("edit-the-image-model", ()),
    "LoadShapesDemo": ("remove-a-style", ()),
    "Edit": ("remove-a-style", ()),
    "ConceptEditList": ("remove-many-concepts", ()),
    "AddConceptEdit": ("remove-many-concepts", ()),
    "SaveEditAsLoRA": ("save-and-share", ()),
    "LoadEdit": ("save-and-share", ()),
    "PreserveSet": ("guard-an-edit", ()),
    "CollateralRadar": ("guard-an-edit", ()),
    "FindLambda": ("guard-an-edit", ("Efficacy against drift",)),
    "EditReport": ("guard-an-edit", ("What the guarded edit does",)),
    "FindTarget": ("change-an-edit", ()),
    "ChangeEdit": ("change-an-edit", ()),
    "CorruptPrompt": ("restore-a-layer", ()),
    "RestoreTextState": ("restore-a-layer", ()),
    "RestoreUNetState": ("restore-a-layer", ()),
    "CLIPScore": ("score-with-clip", ("Each picture (before)",)),
    "ShapesScorer": ("score-with-clip", ()),
    "LoadCLIPScorer": ("score-with-clip", ()),
    "CLIPVisionScorer": ("score-with-clip", ()),
    "CausalTraceText": ("trace-text-encoder", ()),
    "CausalHeatmap": ("trace-text-encoder", ()),
    "LocateCausalState": ("trace-text-encoder", ("PreviewAny",)),
    "CausalTraceUNet": ("trace-unet", ()),
    "SaveTrace": ("compare-traces", ()),
    "LoadTrace": ("compare-traces", ()),
    "CompareTraces": ("compare-traces", ("Noise - other words",)),
    "BeforeAfterSheet": ("remove-a-concept", ("Before and after",)),
}
_NO_BADGES = "window.app.extensionManager.setting.set('Comfy.NodeBadge.NodeSourceBadgeMode', 'None').then(() => true)"
README, README_TEMPLATE = "README", "remove-a-concept"
_AROUND = """((shown) => {
    const [left, top] = [0, 1].map((axis) => Math.min(...shown.map((one) => one.pos[axis])));
    const [right, bottom] = [0, 1].map((axis) => Math.max(...shown.map((one) => one.pos[axis] + one.size[axis])));
    return { left, top, width: right - left, height: bottom - top };
})"""
_WHOLE = f"{_AROUND}([...window.app.graph._nodes, ...window.app.graph._groups])"
_BOX = f"""(kind, companions) => {{
    const nodes = window.app.graph._nodes;
    const named = (name) => nodes.find((node) => node.title === name) ?? nodes.find((node) => node.type === name);
    const shown = [nodes.find((node) => node.type === kind), ...companions.map(named)];
    for (const node of shown) node.mode = 0;
    return {_AROUND}(shown);
}}"""


def pin_a_cell(page: ComfyPage) -> None:
    """Have the heat map show the pictures of its largest cell."""
    page.run("document.querySelector('.diff-quickfix-heatmap').focus()")
    page.press("Enter")
    page.rest(2)


def take(page: ComfyPage, kind: str, companions: tuple[str, ...]) -> Image.Image:
    """The node and its companions, cut from the page at the scale 1; wide ones at a scale that fits."""
    if kind == "CausalHeatmap":
        pin_a_cell(page)
    picture = cut(page, page.run(_BOX, PREFIX + kind, list(companions)))
    picture.thumbnail((760, 1100), Image.Resampling.LANCZOS)
    return picture


def take_whole(page: ComfyPage) -> Image.Image:
    """The whole graph, small but with its texts."""
    page.run("window.app.extensionManager.setting.set('LiteGraph.Canvas.MinFontSizeForLOD', 0).then(() => true)")
    return cut(page, page.run(_WHOLE))


def beside(node: Image.Image, sheet: Image.Image) -> Image.Image:
    """A node and, as high as it, the sheet of pictures."""
    sheet = sheet.resize((round(sheet.width * node.height / sheet.height), node.height), Image.Resampling.LANCZOS)
    whole = Image.new("RGB", (node.width + GAP + sheet.width, node.height), "white")
    whole.paste(node, (0, 0))
    whole.paste(sheet, (node.width + GAP, 0))
    return whole


def saved_picture(server: Any) -> Image.Image:
    """What the last run saved, its only picture."""
    (run,) = server.get_json("/history?max_items=1").values()
    ((image,),) = [output["images"] for output in run["outputs"].values() if output.get("images")]
    return Image.fromarray(server.picture(image))


def cut(page: ComfyPage, box: dict[str, float]) -> Image.Image:
    """A part of the graph, at the scale 1 or at one that fits."""
    scale = min(1.0, (WIDTH - LEFT - 40) / box["width"], (HEIGHT - TOP - 40) / box["height"])
    page.view(scale=scale, offset=(LEFT / scale - box["left"], TOP / scale - box["top"]))
    page.rest(1.5)
    clip = {
        "x": LEFT - MARGIN,
        "y": TOP - scale * TITLE - MARGIN,
        "scale": 1,
        "width": scale * box["width"] + 2 * MARGIN,
        "height": scale * (box["height"] + TITLE) + 2 * MARGIN,
    }
    return real_page.picture(page, clip)


def main(chosen: list[str]) -> int:
    wanted = {name: SHOWN[name] for name in chosen or SHOWN if name != README}
    places = [template for template, _ in wanted.values()]
    readme = not chosen or README in chosen
    with real_page.opened(WIDTH, HEIGHT, vue=False) as page:
        page.run(_NO_BADGES)
        for template in dict.fromkeys([*places, *[README_TEMPLATE] * readme]):
            page.load(templates.read(template))
            page.queue(timeout=1200)
            page.rest(2)
            for kind, (place, companions) in wanted.items():
                if place == template:
                    take(page, kind, companions).save(DOCS / f"{PREFIX}{kind}.webp", quality=82, method=6)
            if readme and template == README_TEMPLATE:
                node = take(page, "RemoveConcept", ())
                both = beside(node, saved_picture(page.server))
                both.save(ROOT / "docs" / "remove-a-concept.webp", quality=88, method=6)
                take_whole(page).save(ROOT / "docs" / "graph.webp", quality=85, method=6)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
