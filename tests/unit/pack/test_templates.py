"""The templates in workflows/: the graphs hold together; their versions for other models differ in what they must."""

import pytest
import template_versions
import templates
from PIL import Image

NAMES = templates.shapes_templates()
OWN = {templates.SHAPES, templates.SCORER, "CheckpointLoaderSimple"}
VERSIONS = [(name, suffix) for name in NAMES for suffix in templates.suffixes(name)]


def kinds(graph):
    return {node["id"]: node["type"] for node in graph["nodes"]}


def wires(graph):
    return {tuple(link[:6]) for link in graph["links"]}


def test_nothing_else_lies_in_the_folder():
    found = {path.name for path in templates.FOLDER.iterdir()}
    assert found == {name + ending for name in templates.every_name() for ending in (".json", ".jpg")}


@pytest.mark.parametrize("name", templates.every_name())
def test_links_and_sockets_agree(name):
    graph = templates.read(name)
    nodes = {node["id"]: node for node in graph["nodes"]}
    assert len(nodes) == len(graph["nodes"]) and max(nodes) <= graph["last_node_id"]
    ends = set()
    for number, source, output, target, place, kind in graph["links"]:
        out, socket = nodes[source]["outputs"][output], nodes[target]["inputs"][place]
        assert number in out["links"] and socket["link"] == number and kind == out["type"]
        ends |= {("out", number), ("in", number)}
    for node in nodes.values():
        held = [("out", number) for out in node["outputs"] for number in out["links"]]
        held += [("in", socket["link"]) for socket in node["inputs"] if socket["link"] is not None]
        assert set(held) <= ends, node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_there_is_a_note_and_a_picture(name):
    assert any(node["type"] == "MarkdownNote" for node in templates.read(name)["nodes"])
    assert Image.open(templates.FOLDER / f"{name}.jpg").width >= 400


@pytest.mark.parametrize(("name", "suffix"), VERSIONS)
def test_another_version_is_what_the_script_makes(name, suffix):
    other = templates.FOLDER / f"{name}{suffix}.json"
    assert other.read_text() == templates.written(templates.other_version(name, suffix)), "run scripts/templates.py"
    picture, banded = (Image.open(templates.FOLDER / f"{name}{end}.jpg") for end in ("", suffix))
    assert banded.size == (picture.width, picture.height + templates.BAND)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in template_versions.AS_USED])
def test_the_sd15_version_differs_in_the_loader_and_the_size_alone(name):
    graph, other = templates.read(name), templates.read(name + template_versions.SD15)
    before, after = kinds(graph), kinds(other)
    assert {before[node] for node in before.keys() - after.keys()} <= {templates.SCORER}
    changed = {node for node in after if after[node] != before[node]}
    assert [(before[node], after[node]) for node in changed] == [(templates.SHAPES, "CheckpointLoaderSimple")]
    assert {link for link in wires(graph) if before[link[1]] != templates.SCORER} <= wires(other)
    values = {node["id"]: node["widgets_values"] for node in graph["nodes"]}
    for node in other["nodes"]:
        if node["type"] == "EmptyLatentImage":
            assert node["widgets_values"] == [512, 512, values[node["id"]][2]]
        elif node["type"] not in ("MarkdownNote", "CheckpointLoaderSimple"):
            assert node["widgets_values"] == values[node["id"]]
        elif node["type"] == "MarkdownNote":
            assert not [word for word in ("-sd15", "Load Shapes", "Shapes Scorer") if word in node["widgets_values"][0]]


LOADERS = {
    template_versions.SD15: {"CheckpointLoaderSimple"},
    template_versions.SDXL: {"CheckpointLoaderSimple"},
    template_versions.FLUX: {"UNETLoader", "DualCLIPLoader", "VAELoader"},
    template_versions.Z_IMAGE: {"UNETLoader", "CLIPLoader", "VAELoader"},
}


@pytest.mark.parametrize("suffix", LOADERS)
def test_each_family_is_asked_for_what_people_ask_it_at_its_own_size(suffix):
    graph, other = (templates.read("remove-a-concept" + end) for end in ("", suffix))
    before, after = kinds(graph), kinds(other)
    latent = after[next(node for node in before if before[node] == "EmptyLatentImage")]
    assert {after[node] for node in after if after[node] != before.get(node)} - {latent} == LOADERS[suffix]
    # Every wire but those of the loaders is as before, and those carry the same to the same inputs.
    loaders = {node for node in after if after[node] in LOADERS[suffix]}
    shapes = next(node for node in before if before[node] == templates.SHAPES)
    rest = {link for link in wires(graph) if link[1] != shapes}
    assert rest == {link for link in wires(other) if link[1] not in loaders}
    assert {(*link[3:], link[0]) for link in wires(other)} == {(*link[3:], link[0]) for link in wires(graph)}
    values = {}
    for node in other["nodes"]:
        values.setdefault(node["type"], []).append(node["widgets_values"])
    side = 512 if suffix == template_versions.SD15 else 1024
    assert values[latent] == [[side, side, 1]]
    positive, negative, *same = sorted({text for (text,) in values["CLIPTextEncode"]}, key=len, reverse=True)
    (concept, *_), *_ = values["DiffQuickFix_RemoveConcept"]
    assert concept in positive and concept not in negative and not same and "circle" not in positive
    assert values[templates.SHEET] == [["before | after", positive]]
    # Before and after differ in the model and the text encoder alone.
    assert values["KSampler"][0] == values["KSampler"][1]
    unguided = values["KSampler"][0][3] == 1.0
    assert unguided == (negative == "") == ("guidance 1" in values["MarkdownNote"][0][0])


@pytest.mark.parametrize("name", [name for name in templates.every_name() if name not in NAMES])
def test_the_page_can_offer_every_file_that_a_loader_names(name):
    """Where the page looks for them: the name, a link that ends in it, and ComfyUI's folder for it."""
    folders = {"UNETLoader": "diffusion_models", "VAELoader": "vae", "CheckpointLoaderSimple": "checkpoints"}
    found = [node for node in templates.read(name)["nodes"] if "models" in node["properties"]]
    assert {node["type"] for node in found} == LOADERS[next(end for end in LOADERS if name.endswith(end))]
    for node in found:
        files = [value for value in node["widgets_values"] if value.endswith(".safetensors")]
        models = node["properties"]["models"]
        assert [model["name"] for model in models] == files and files
        for model in models:
            assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith("/" + model["name"])
            assert "/resolve/" in model["url"] and model["directory"] == folders.get(node["type"], "text_encoders")


def test_a_prompt_takes_widgets_in_order_and_links_over_them():
    known = {
        "A": {
            "input": {
                "required": {
                    "text": ["STRING", {}],
                    "seed": ["INT", {}],
                    "image": ["IMAGE", {}],
                    "mode": [["x", "y"], {}],
                },
                "optional": {"words": ["STRING", {"forceInput": True}], "size": ["INT", {}]},
            }
        }
    }
    assert templates.widget_names(known["A"]) == ["text", "seed", None, "mode", "size"]
    node = {
        "id": 7,
        "type": "A",
        "mode": 0,
        "widgets_values": ["hi", 3, "fixed", "y"],
        "inputs": [{"name": "image", "link": 4}, {"name": "mode", "link": 5}, {"name": "words", "link": None}],
    }
    muted = {**node, "id": 8, "mode": 2}
    note = {"id": 9, "type": "MarkdownNote", "mode": 0}
    graph = {"nodes": [node, muted, note], "links": [[4, 1, 0, 7, 2, "IMAGE"], [5, 2, 1, 7, 3, "COMBO"]]}
    inputs = {"text": "hi", "seed": 3, "image": ["1", 0], "mode": ["2", 1]}
    assert templates.prompt_of(graph, known) == {"7": {"class_type": "A", "inputs": inputs}}


def test_a_prompt_holds_a_subgraphs_nodes_once_for_each_of_its_nodes():
    known = {kind: {"input": {"required": {"x": ["LATENT", {}]}}} for kind in ("A", "B", "C")}

    def node(number, kind, link):
        return {
            "id": number,
            "type": kind,
            "mode": 0,
            "widgets_values": [],
            "inputs": [{"name": "x", "link": link}] if link else [],
        }

    inner = [(1, -10, 0, 1, 0), (2, 1, 0, 2, 0), (3, 2, 1, -20, 0)]
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
    subgraph = {
        "id": "S",
        "nodes": [node(1, "A", 1), node(2, "B", 2)],
        "links": [dict(zip(keys, link, strict=True)) for link in inner],
    }
    graph = {
        "nodes": [node(1, "C", None), node(2, "S", 1), node(3, "S", 2), node(4, "C", 3)],
        "links": [[1, 1, 0, 2, 0, "X"], [2, 2, 0, 3, 0, "X"], [3, 3, 0, 4, 0, "X"]],
        "definitions": {"subgraphs": [subgraph]},
    }
    prompt = templates.prompt_of(graph, known)
    assert {key: (entry["class_type"], entry["inputs"].get("x")) for key, entry in prompt.items()} == {
        "1": ("C", None),
        "2:1": ("A", ["1", 0]),
        "2:2": ("B", ["2:1", 0]),
        "3:1": ("A", ["2:2", 1]),
        "3:2": ("B", ["3:1", 0]),
        "4": ("C", ["3:2", 1]),
    }
