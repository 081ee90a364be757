"""The templates and blueprints on the page: no node covers another, no wire runs behind one, and few wires cross."""

import json

import pytest
import template_versions
import templates
from diff_quickfix.demo_model.studies.server import PACK
from wires import wires_of

SIZES = "window.app.graph._nodes.map((node) => [...node.size])"
ENTER = "(() => { window.app.canvas.setGraph(window.app.graph._nodes[0].subgraph); })()"
# At most so many crossings: of any two wires, and of wires that alone leave their output. A loader that feeds two
# branches closes each off with its wires, so that those to the other cross them; every further branch adds as many.
# Alone and crossed: the VAE of a loader that feeds a negative prompt below it (traces), the clean prompt of Corrupt
# Prompt, what an edit gives where the nodes that paint stand below each other, and settings of the blueprints, whose
# sockets have another order inside than outside.
CROSSINGS = {
    "change-an-edit": (21, 9),
    "compare-traces": (17, 0),
    "edit-the-image-model": (31, 0),
    "guard-an-edit": (34, 20),
    "remove-a-concept": (10, 4),
    "remove-a-style": (7, 0),
    "remove-many-concepts": (7, 0),
    "restore-a-layer": (44, 1),
    "save-and-share": (34, 0),
    "score-with-clip": (9, 0),
    "trace-text-encoder": (1, 1),
    "trace-then-edit": (25, 0),
    "trace-unet": (1, 1),
}
# The least scale at which a template opens on a page of 1400 x 900, the tests' own size. From 8/14 on the classic
# renderer draws texts; those below open smaller.
READABLE = 8 / 14
SMALLER = {
    "compare-traces": 0.36,
    "edit-the-image-model": 0.37,
    "remove-a-style": 0.4,
    "restore-a-layer": 0.3,
    "save-and-share": 0.26,
    "score-with-clip": 0.34,
    "trace-text-encoder": 0.4,
    "trace-then-edit": 0.26,
    "trace-unet": 0.4,
}
BLUEPRINTS = {"Remove a concept (Diff-QuickFix)": (0, 0), "trace-a-prompt": (9, 5)}


def load(page, graph):
    """Put a workflow on the page, and wait until its nodes have their sizes."""
    page.load(graph)
    seen = []
    while len(seen) < 4 or any(sizes != seen[-1] for sizes in seen[-4:]):
        page.rest(0.1)
        page.settle()
        seen.append(page.run(SIZES))


def check_layout(page, most, most_alone):
    wires = wires_of(page)
    assert not wires.covered_nodes() and not wires.behind_nodes()
    crossings = wires.crossings()
    alone = [pair for pair in crossings if any(wires.fed[output] == 1 for output in pair)]
    assert len(crossings) <= most and len(alone) <= most_alone, crossings


def test_every_template_is_measured():
    assert list(CROSSINGS) == templates.shapes_templates()


# The others' versions have the same layout; in these a node takes another's place, or three take that of one.
OTHERS = ("score-with-clip" + template_versions.SD15, "remove-a-concept" + template_versions.FLUX)


@pytest.mark.parametrize("name", [*CROSSINGS, *OTHERS])
def test_a_template_opens_readable_and_its_wires_can_be_followed(page, name):
    graph = templates.read(name)
    load(page, graph)
    assert page.run("window.app.graph._nodes.length") == len(graph["nodes"])
    assert page.run("window.app.graph.reroutes.size") == len(graph["extra"].get("reroutes", []))
    task = name.removesuffix(template_versions.SD15).removesuffix(template_versions.FLUX)
    check_layout(page, *CROSSINGS[task])
    page.run("window.app.extensionManager.command.execute('Comfy.Canvas.FitView').then(() => true)")
    page.rest(0.6)
    assert page.run("window.innerWidth") == 1400
    assert page.run("window.app.canvas.ds.scale") >= SMALLER.get(task, READABLE)
    assert not page.own_complaints()


@pytest.mark.parametrize("name", ["guard-an-edit", "remove-many-concepts"])
def test_the_page_makes_the_prompt_of_a_subgraph_that_the_server_tests_run(page, server, name):
    graph = templates.read(name)
    load(page, graph)
    made = page.run("window.app.graphToPrompt().then(({ output }) => output)")
    wanted = templates.prompt_of(graph, server.get_json("/object_info"))
    assert any(":" in key for key in made)

    def grown(prompt, key):
        """A node with all that feeds it; the page gives a subgraph's nodes other ids."""
        links = {socket: value for socket, value in prompt[key]["inputs"].items() if isinstance(value, list)}
        return prompt[key]["class_type"], {name: (grown(prompt, of), slot) for name, (of, slot) in links.items()}

    assert len(made) == len(wanted)
    for key, node in wanted.items():
        if node["class_type"] == "SaveImage":
            assert grown(made, key) == grown(wanted, key)


@pytest.mark.parametrize("name", BLUEPRINTS)
def test_the_wires_of_a_blueprint_can_be_followed(page, name):
    load(page, json.loads((PACK / "subgraphs" / f"{name}.json").read_text(encoding="utf-8")))
    page.run(ENTER)
    page.settle()
    check_layout(page, *BLUEPRINTS[name])


def test_a_wire_behind_a_node_and_a_crossing_are_found(page):
    page.clear()
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(0, 0))
    hiding = page.add("EmptyLatentImage", at=(400, 0))
    sampler = page.add("KSampler", at=(900, 0))
    decode = page.add("VAEDecode", at=(900, -400))
    page.connect(loader, "model", sampler, "model")
    page.settle()
    wires = wires_of(page)
    assert wires.behind_nodes() == [((str(loader), 0), str(hiding))] and not wires.crossings()
    page.connect(loader, "vae", decode, "vae")
    page.settle()
    assert [set(pair) for pair in wires_of(page).crossings()] == [{(str(loader), 0), (str(loader), 2)}]
