"""The subgraph blueprints: found in the node search, inserted as one node, and run."""

import numpy as np
import pytest
from diff_quickfix.demo_model.scorer import ShapesScorer
from diff_quickfix.demo_model.studies.demo import EDITED, as_tensor
from test_heatmap_widget import CHECK

REMOVE = "Remove a concept (Diff-QuickFix)"
PROMPT = f"a red circle on grass, in the style of {EDITED}"
SUBGRAPH = "window.app.graph._nodes.find((node) => node.isSubgraphNode?.())"
SOCKETS = f"""[{SUBGRAPH}.inputs.filter((one) => !one.widget).map((one) => one.name),
    {SUBGRAPH}.widgets.map((one) => one.name), {SUBGRAPH}.outputs.map((one) => one.name)]"""
SENT = "window.app.graphToPrompt().then(({ output }) => Object.values(output))"


def insert(page, name):
    """Search for a blueprint, take it, and put it down; returns the new node's id."""
    page.clear()
    page.view()
    page.run("window.app.extensionManager.command.execute('Workspace.SearchBox.Toggle').then(() => true)")
    page.wait("document.activeElement?.getAttribute('role') === 'combobox'")
    # What people type: the name without the pack's, which stands in parentheses.
    typed = name.split(" (")[0]
    for key in typed:
        page.press(key)
    page.wait("(typed) => document.activeElement.value === typed", typed)
    page.wait("(name) => document.querySelector('[role=option]')?.textContent.includes(name)", name)
    page.rest(1)
    page.press("Enter")
    page.wait(f"Boolean({SUBGRAPH})")
    page.rest(1)
    # The node follows the pointer until a click puts it down.
    for _ in range(10):
        page.click(640, 300)
        page.rest(0.3)
        if not page.run(f"{SUBGRAPH}.flags.ghost"):
            break
    assert not page.run(f"{SUBGRAPH}.flags.ghost")
    page.run(f"() => {{ {SUBGRAPH}.pos = [420, 120]; window.app.canvas.setDirty(true, true); }}")
    return page.run(f"{SUBGRAPH}.id")


def connect_all(page, wires):
    for source, output, target, into in wires:
        page.connect(source, output, target, into)


def set_widgets(page, **values):
    code = f"""(values) => {{
        for (const [name, value] of Object.entries(values))
            {SUBGRAPH}.widgets.find((widget) => widget.name === name).value = value;
    }}"""
    page.run(code, values)


@pytest.fixture(scope="session")
def known_runs():
    """What graphs gave that the page has sent, in either renderer."""
    return {}


def output_of(page, node, known_runs, *, timeout=300):
    """What a node gives in a run of the graph; a graph that the other renderer's page sent too is not run again."""
    sent = page.run("window.app.graphToPrompt().then(({ output }) => JSON.stringify(output))")
    if sent not in known_runs:
        page.queue(timeout=timeout)
        history = page.server.get_json("/history?max_items=1")
        known_runs[sent] = next(iter(history.values()))["outputs"]
    return known_runs[sent][str(node)]


def shot(page, name):
    page.run("window.app.extensionManager.command.execute('Comfy.Canvas.FitView').then(() => true)")
    page.rest(1)
    page.shot(name)


def test_remove_a_concept_is_one_node_whose_edit_reaches_the_picture(page, known_runs):
    blueprint = insert(page, REMOVE)
    assert page.run(SOCKETS) == [
        ["model", "clip", "concepts"],
        ["concept", "becomes", "kind", "strength"],
        ["model", "clip", "edit", "report"],
    ]
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(60, 120))
    latent = page.add("EmptyLatentImage", at=(60, 320), widgets={"width": 128, "height": 128, "batch_size": 2})
    positive = page.add("CLIPTextEncode", at=(860, 120), widgets={"text": PROMPT})
    negative = page.add("CLIPTextEncode", at=(860, 360))
    settings = {"seed": 7, "steps": 12, "cfg": 5, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
    sampler = page.add("KSampler", at=(1160, 120), widgets=settings)
    decode = page.add("VAEDecode", at=(1160, 480))
    save = page.add("SaveImage", at=(1160, 600))
    show = page.add("PreviewAny", at=(420, 420))
    connect_all(
        page,
        (
            (loader, "model", blueprint, "model"),
            (loader, "clip", blueprint, "clip"),
            (blueprint, "report", show, "source"),
            (positive, "CONDITIONING", sampler, "positive"),
            (negative, "CONDITIONING", sampler, "negative"),
            (latent, "LATENT", sampler, "latent_image"),
            (sampler, "LATENT", decode, "samples"),
            (loader, "vae", decode, "vae"),
            (decode, "IMAGE", save, "images"),
        ),
    )
    styles = {}
    for source in (loader, blueprint):
        wires = ((source, "clip", positive, "clip"), (source, "clip", negative, "clip"))
        connect_all(page, (*wires, (source, "model", sampler, "model")))
        images = output_of(page, save, known_runs)["images"]
        pictures = np.stack([page.server.picture(image) for image in images])
        styles[source] = ShapesScorer().read(as_tensor(pictures), "style")
    assert styles[loader] == [EDITED] * 2 and EDITED not in styles[blueprint]
    (report,) = output_of(page, show, known_runs)["text"]
    assert report.startswith("edited: the image model") and "efficacy" in report
    shot(page, "blueprint-remove-a-concept")
    assert not page.own_complaints()


INSIDE = ".diff-quickfix-notes.diff_quickfix_inside"


def test_its_verdict_stands_outside_as_long_as_it_is_true(page):
    """On the node of the subgraph that ran, and not on another of the same subgraph."""
    blueprint = insert(page, REMOVE)
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(60, 120))
    show = page.add("PreviewAny", at=(820, 120))
    wires = ((loader, "model", blueprint, "model"), (loader, "clip", blueprint, "clip"))
    connect_all(page, (*wires, (blueprint, "report", show, "source")))
    # It was put down wherever the pointer was; the classic renderer shows words of nodes in view alone.
    code = """(id) => {
        const node = window.app.graph.getNodeById(id);
        node.pos = [380, 160];
        const other = LiteGraph.createNode(node.type);
        other.pos = [380, 600];
        window.app.graph.add(other);
    }"""
    page.run(code, blueprint)
    before = page.run(f"{SUBGRAPH}.serialize().widgets_values")
    page.queue()
    page.wait(f"document.querySelector('{INSIDE}')?.textContent.startsWith('strong')")
    page.rest(0.6)
    page.shot("blueprint-verdict")
    (said,) = page.text_of(INSIDE)
    assert "efficacy" in said and "drift" in said
    # All of it is seen, on its own node, over no widget.
    code = f"""() => {{
        const {{ id, pos, size }} = {SUBGRAPH};
        const {{ top }} = window.app.canvas.canvas.getBoundingClientRect();
        const seen = (y) => top + (y + window.app.canvas.ds.offset[1]) * window.app.canvas.ds.scale;
        const drawn = document.querySelector(`[data-node-id="${{id}}"]`)?.getBoundingClientRect();
        const [from, to] = [drawn?.top ?? seen(pos[1]), drawn?.bottom ?? seen(pos[1] + size[1])];
        const box = document.querySelector('{INSIDE}').getBoundingClientRect();
        return [box.height > 30, box.top > from + 150, box.bottom <= to];
    }}"""
    assert page.run(f"({code})()") == [True] * 3
    assert page.run(f"{SUBGRAPH}.serialize().widgets_values") == before
    page.run(CHECK)
    page.reload()
    page.wait(f"document.querySelector('{INSIDE}')?.textContent.startsWith('strong')")
    set_widgets(page, concept="piet mondrian")
    stale = "Made before you changed concept; run again."
    page.wait(f"document.querySelector('{INSIDE}')?.textContent.includes('{stale}')")
    # A refused run takes it away.
    set_widgets(page, concept="")
    page.queue()
    page.wait(f"document.querySelector('{INSIDE} [role=alert]')?.textContent.length > 20")
    (said,) = page.text_of(INSIDE)
    assert "efficacy" not in said
    assert not page.own_complaints()


def test_its_settings_reach_the_node_inside(page):
    insert(page, REMOVE)
    settings = {"concept": "piet mondrian", "becomes": "drawing", "kind": "object", "strength": 0.5}
    set_widgets(page, **settings)
    (sent,) = [node["inputs"] for node in page.run(SENT) if node["class_type"] == "DiffQuickFix_RemoveConcept"]
    assert {name: sent[name] for name in settings} == settings


def test_trace_a_prompt_finds_the_layer(page, known_runs):
    blueprint = insert(page, "trace-a-prompt")
    assert page.run(SOCKETS) == [
        ["model", "clip", "vae", "scorer"],
        ["prompts", "width", "height", "steps", "cfg", "noise"],
        ["trace", "heatmap", "examples", "layer", "report"],
    ]
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(60, 120))
    scorer = page.add("DiffQuickFix_ShapesScorer", at=(60, 320), widgets={"words": f"a {EDITED} painting"})
    picture = page.add("PreviewImage", at=(900, 120), size=(460, 300))
    show = page.add("PreviewAny", at=(900, 480))
    connect_all(
        page,
        (
            (loader, "model", blueprint, "model"),
            (loader, "clip", blueprint, "clip"),
            (loader, "vae", blueprint, "vae"),
            (scorer, "scorer", blueprint, "scorer"),
            (blueprint, "heatmap", picture, "images"),
            (blueprint, "report", show, "source"),
        ),
    )
    prompt = f"a red circle, in the style of [{EDITED}]"
    set_widgets(page, prompts=prompt, width=128, height=128, steps=4, cfg=5)
    (report,) = output_of(page, show, known_runs, timeout=600)["text"]
    assert "text.0.self_attn" in report
    shot(page, "blueprint-trace-a-prompt")
    assert not page.own_complaints()
