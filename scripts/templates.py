"""Keep the templates in workflows/ alike: API prompts from graphs, thumbnails, and versions for one's own models.

    python3 scripts/bootstrap.py run -- python scripts/templates.py            write every template's other versions
    python3 scripts/bootstrap.py run -- python scripts/templates.py NAME ...   paint the thumbnails of these before

A template is a graph in ComfyUI's UI format, as its page saves it. `NAME.json` paints with Shapes, the demo model;
`NAME-sd15.json` is the same with a checkpoint loader. Of some there are versions for other families too (`-sdxl`,
`-flux`, `-z-image`), with the loaders, prompts, size and sampler that people use there. Change the first, and run this.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from diff_quickfix.demo_model.studies.server import Server, running_server
from PIL import Image, ImageDraw, ImageFont
from template_versions import AS_USED, SD15, VERSIONS, Loader, Version

Graph = dict[str, Any]
FOLDER = Path(__file__).resolve().parent.parent / "workflows"
SHAPES, SCORER, CLIP_SCORER = "DiffQuickFix_LoadShapesDemo", "DiffQuickFix_ShapesScorer", "DiffQuickFix_LoadCLIPScorer"
NOTES = ("MarkdownNote", "Note")
SHEET = "DiffQuickFix_BeforeAfterSheet"
OWN_MODEL = "With your own model"
_CFG = 3  # cfg's place among KSampler's values
BAND = 22  # pixels of a thumbnail
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
_MUTED, _BYPASSED = 2, 4
_INPUTS, _OUTPUTS = -10, -20  # a subgraph's own ends, as the ids of nodes


def read(name: str) -> Graph:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def shapes_templates() -> list[str]:
    """Names of the templates that paint with Shapes, from which the others are made."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if not path.stem.endswith(tuple(VERSIONS)))


def suffixes(name: str) -> list[str]:
    """The ends of the names of a template's other versions."""
    return list(AS_USED.get(name, [SD15]))


def every_name() -> list[str]:
    """The names of all templates."""
    names = shapes_templates()
    return [*names, *(name + suffix for name in names for suffix in suffixes(name))]


def widget_names(info: dict[str, Any]) -> list[str | None]:
    """A node's widgets in the order in which a graph keeps their values; None for what only the page has.

    Args:
        info: the node's entry of ``/object_info``.
    """
    names: list[str | None] = []
    for part in ("required", "optional"):
        for name, (kind, *options) in info["input"].get(part, {}).items():
            rules = options[0] if options else {}
            if (isinstance(kind, list) or kind in _WIDGETS) and not rules.get("forceInput"):
                names.append(name)
                # The page adds "control after generate" behind every seed.
                if kind == "INT" and rules.get("control_after_generate", name in ("seed", "noise_seed")):
                    names.append(None)
    return names


def prompt_of(graph: Graph, known: dict[str, Any]) -> dict[str, Any]:
    """The API prompt that the page makes of a graph.

    Args:
        graph: in UI format; subgraphs hold none themselves and have no widgets. Bypassed nodes are not supported.
        known: ``/object_info``.
    """
    links = {link[0]: (str(link[1]), link[2]) for link in graph["links"]}
    inner = {one["id"]: one for one in graph.get("definitions", {}).get("subgraphs", [])}
    given: dict[tuple[str, int], tuple[str, int]] = {}
    prompt = {}
    for node in graph["nodes"]:
        assert node["mode"] != _BYPASSED, node["type"]
        if node["type"] in NOTES or node["mode"] == _MUTED:
            continue
        if node["type"] in inner:
            prompt |= _inside(inner[node["type"]], node, links, given, known)
        else:
            prompt[str(node["id"])] = _entry(node, links, known)
    for entry in prompt.values():
        for name, value in entry["inputs"].items():
            if isinstance(value, tuple):
                entry["inputs"][name] = list(given.get(value, value))
    return prompt


def _inside(
    subgraph: Graph,
    node: Graph,
    links: dict[int, tuple[str, int]],
    given: dict[tuple[str, int], tuple[str, int]],
    known: dict[str, Any],
) -> dict[str, Any]:
    """The prompt's entries of a subgraph's nodes; what its node gives out comes into `given`."""
    within = {}
    for link in subgraph["links"]:
        source, slot = link["origin_id"], link["origin_slot"]
        if source == _INPUTS:
            within[link["id"]] = links[node["inputs"][slot]["link"]]
        else:
            within[link["id"]] = (f"{node['id']}:{source}", slot)
        if link["target_id"] == _OUTPUTS:
            given[str(node["id"]), link["target_slot"]] = within[link["id"]]
    return {f"{node['id']}:{one['id']}": _entry(one, within, known) for one in subgraph["nodes"]}


def _entry(node: Graph, links: dict[int, tuple[str, int]], known: dict[str, Any]) -> dict[str, Any]:
    """A node's entry in the prompt; links are still tuples."""
    names = widget_names(known[node["type"]])
    values = node["widgets_values"]
    assert len(values) <= len(names), f"{node['type']} has {len(values)} values for {names}"
    inputs = {name: value for name, value in zip(names, values, strict=False) if name is not None}
    inputs |= {socket["name"]: links[socket["link"]] for socket in node["inputs"] if socket["link"] is not None}
    return {"class_type": node["type"], "inputs": inputs}


def other_version(name: str, suffix: str) -> Graph:
    """A template's version for people's own models."""
    version = VERSIONS[suffix]
    graph = for_models(read(name), version)
    if name in AS_USED:
        _as_used(graph, version, AS_USED[name][suffix])
    return graph


def for_models(graph: Graph, version: Version) -> Graph:
    """The same graph with loaders of the models, at their size, and without the scorer that knows Shapes alone.

    What the Shapes Scorer fed is fed by the template's Load CLIP Scorer in its place, if it has one, and else by
    nothing: a trace then measures latents.
    """
    graph = copy.deepcopy(graph)
    kinds = {node["type"]: node for node in graph["nodes"]}
    for node in graph["nodes"]:
        if node["type"] == "EmptyLatentImage":
            node["type"] = node["properties"]["Node name for S&R"] = version.latent
            node["widgets_values"][:2] = [version.size, version.size]
        if node["type"] == "MarkdownNote":
            node["widgets_values"] = [_own_note(node["widgets_values"][0], version, scored=SCORER in kinds)]
    _use_loaders(graph, kinds[SHAPES], version.loaders)
    if SCORER in kinds:
        _without_scorer(graph, kinds[SCORER], kinds.get(CLIP_SCORER))
    return graph


def _as_used(graph: Graph, version: Version, prompts: dict[str, str]) -> None:
    """Prompts and sampling as people use the models: one large picture, the edited one beside it."""
    for node in graph["nodes"]:
        values = node["widgets_values"]
        if node["type"] == "CLIPTextEncode":
            values[0] = prompts[values[0]]
        elif node["type"] == "KSampler":
            values[:] = version.sampler
        elif node["type"] == version.latent:
            values[2] = 1
        elif node["type"] == SHEET:
            values[1] = prompts[values[1]]


def _use_loaders(graph: Graph, shapes: Graph, loaders: tuple[Loader, ...]) -> None:
    """Put loaders in the place of Load Shapes Demo; the first takes its id, and the note moves out of their way."""
    outputs = {output["type"]: output for output in shapes["outputs"]}
    left, width = shapes["pos"][0], shapes["size"][0]
    for place, loader in enumerate(loaders):
        node = shapes if place == 0 else copy.deepcopy(shapes)
        top, height = loader.place
        node |= {**loader.node(), "outputs": [{**outputs[kind], "name": kind} for kind in loader.gives]}
        if place:
            graph["last_node_id"] += 1
            node["id"] = graph["last_node_id"]
            graph["nodes"].append(node)
        if len(loaders) > 1:
            node["pos"], node["size"] = [left, top], [width, height]
        for slot, output in enumerate(node["outputs"]):
            for link in (link for link in graph["links"] if link[0] in output["links"]):
                link[1:3] = [node["id"], slot]
    bottom = max(loader.place[0] + loader.place[1] for loader in loaders) + 50
    for node in graph["nodes"]:
        if len(loaders) > 1 and node["type"] == "MarkdownNote" and node["pos"][0] == left:
            node["size"][1] += node["pos"][1] - bottom
            node["pos"][1] = bottom


def _without_scorer(graph: Graph, scorer: Graph, heir: Graph | None) -> None:
    (output,) = scorer["outputs"]
    if heir:
        heir["pos"] = scorer["pos"]
    for link in [link for link in graph["links"] if link[0] in output["links"]]:
        if heir:
            link[1:3] = [heir["id"], 0]
            heir["outputs"][0]["links"].append(link[0])
            heir["mode"] = 0
            continue
        graph["links"].remove(link)
        (target,) = (node for node in graph["nodes"] if node["id"] == link[3])
        target["inputs"][link[4]]["link"] = None
    graph["nodes"].remove(scorer)


def _own_note(text: str, version: Version, *, scored: bool) -> str:
    """A note without Shapes' scorer, and about a checkpoint where it spoke of the reader's own model."""
    kept = [part for part in text.split("\n\n") if OWN_MODEL not in part and "Shapes Scorer" not in part]
    if OWN_MODEL not in text:
        return "\n\n".join(kept)
    kept.append(
        f"Choose your {version.models}, and name something that it knows in the prompts. The picture in the template "
        "list was painted with Shapes, the demo model."
    )
    if version.sampler[_CFG] == 1:
        kept.append("At guidance 1 a negative prompt does nothing, so its boxes are empty. The edit acts all the same.")
    if scored and "CLIP" not in text:
        kept.append(
            "Without a scorer the trace measures how near the latent comes to the clean one. To measure words instead, "
            "connect *Load CLIP Scorer* or *CLIP Vision Scorer*."
        )
    return "\n\n".join(kept)


def written(graph: Graph) -> str:
    return json.dumps(graph, indent=1) + "\n"


def thumbnail(server: Server, name: str) -> Image.Image:
    """What a template saves, painted by the server: one row a Save Image node, from the top of the graph down."""
    graph = read(name)
    outputs = server.run(prompt_of(graph, server.get_json("/object_info")), timeout=1800)
    savers = [node for node in graph["nodes"] if node["type"] == "SaveImage"]
    savers.sort(key=lambda node: node["pos"][::-1])
    rows = [
        [Image.fromarray(server.picture(image)) for image in outputs[str(node["id"])]["images"][:8]] for node in savers
    ]
    width = max(600 if row[0].width > 600 else sum(picture.width for picture in row) for row in rows)
    return _stacked([_row(row, width) for row in rows], width)


def _row(pictures: list[Image.Image], width: int) -> Image.Image:
    """Pictures side by side; one that is wider than the row is made narrower."""
    if pictures[0].width > width:
        height = round(pictures[0].height * width / pictures[0].width)
        return pictures[0].resize((width, height), Image.Resampling.LANCZOS)
    row = Image.new("RGB", (width, pictures[0].height), "white")
    left = (width - sum(picture.width for picture in pictures)) // 2
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _stacked(rows: list[Image.Image], width: int) -> Image.Image:
    whole = Image.new("RGB", (width, sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole


def banded_picture(path: Path, band: str) -> Image.Image:
    """A template's thumbnail with a band that tells its other version from it."""
    picture = Image.open(path).convert("RGB")
    banded = Image.new("RGB", (picture.width, picture.height + BAND), (40, 40, 46))
    banded.paste(picture, (0, BAND))
    ImageDraw.Draw(banded).text(
        (8, BAND // 2),
        f"{band} (pictures: Shapes)",
        fill="white",
        anchor="lm",
        font=ImageFont.load_default(14),
    )
    return banded


def paint_thumbnails(names: list[str]) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(os.environ["COMFYUI_PATH"]), Path(folder)) as server,
    ):
        for name in names:
            thumbnail(server, name).save(FOLDER / f"{name}.jpg", quality=88)


def main(names: list[str]) -> int:
    if names:
        paint_thumbnails(names)
    for name in shapes_templates():
        for suffix in suffixes(name):
            path = FOLDER / f"{name}{suffix}.json"
            path.write_text(written(other_version(name, suffix)), encoding="utf-8")
            picture = banded_picture(FOLDER / f"{name}.jpg", VERSIONS[suffix].band)
            picture.save(path.with_suffix(".jpg"), quality=85)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
