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
# Prompt, and settings of the blueprints, whose sockets have another order inside than outside.
CROSSINGS = {
    "change-an-edit": (36, 0),
    "compare-traces": (17, 0),
    "edit-the-image-model": (31, 0),
    "guard-an-edit": (35, 0),
    "remove-a-concept": (10, 4),
    "remove-a-style": (7, 0),
    "remove-many-concepts": (52, 0),
    "restore-a-layer": (44, 1),
    "save-and-share": (34, 0),
    "score-with-clip": (9, 0),
    "trace-text-encoder": (1, 1),
    "trace-then-edit": (25, 0),
    "trace-unet": (1, 1),
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
def test_the_wires_of_a_template_can_be_followed(page, name):
    graph = templates.read(name)
    load(page, graph)
    assert page.run("window.app.graph._nodes.length") == len(graph["nodes"])
    assert page.run("window.app.graph.reroutes.size") == len(graph["extra"].get("reroutes", []))
    check_layout(page, *CROSSINGS[name.removesuffix(template_versions.SD15).removesuffix(template_versions.FLUX)])
    assert not page.own_complaints()


def test_the_first_template_opens_readable(page):
    """On a page of 1400 x 900, the tests' own size: the classic renderer draws texts from a scale of 8/14 on."""
    load(page, templates.read("remove-a-concept"))
    page.run("window.app.extensionManager.command.execute('Comfy.Canvas.FitView').then(() => true)")
    page.rest(1)
    assert page.run("window.innerWidth") == 1400 and page.run("window.app.canvas.ds.scale") > 8 / 14


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
