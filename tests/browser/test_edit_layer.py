"""The heat map's "edit this layer": it sets the edits of the trace's model, or the selected ones, or says why none."""

import pytest
from test_heatmap_widget import KEPT, PRESS, WORDS, cell_at, command, show_payload
from traces import make_trace

EDIT = "DiffQuickFix_Edit"
SET = "set this layer on the connected Diff-QuickFix Edit"
# The layer of an edit before it is set; the trace's is 0.
BEFORE = 5
OTHER_MODEL = "takes its CLIP from the model of this trace"
PLACED = """(id, names) => {
    const node = window.app.graph.getNodeById(id);
    for (const [name, value] of Object.entries(names)) node[name] = value;
}"""


def loader(page, file="one.safetensors", at=(20, 60)):
    return page.add("CheckpointLoaderSimple", at=at, widgets={"ckpt_name": file})


def edit(page, source, output, at=(1000, 60)):
    """An edit behind an output; its id."""
    made = page.add(EDIT, at=at, widgets={"layer": BEFORE})
    page.connect(source, output, made, "clip")
    return made


def behind(page, kind, source, output="CLIP", into="clip", **widgets):
    """A node of a kind behind an output; its id."""
    made = page.add(kind, at=(300, 500), widgets=widgets)
    page.connect(source, output, made, into)
    return made


def heat_map(page, source, output="CLIP"):
    """A heat map of a trace of an output's model, drawn; its id."""
    trace = page.add("DiffQuickFix_CausalTraceText", at=(20, 300))
    heat = page.add("DiffQuickFix_CausalHeatmap", at=(420, 60), size=(560, 600))
    page.connect(source, output, trace, "clip")
    page.connect(trace, "trace", heat, "trace")
    show_payload(page, make_trace())
    return heat


def layers(page, *edits):
    """The layers of edits, wherever they stand."""
    code = """(...ids) => {
        const root = window.app.rootGraph ?? window.app.graph;
        const all = [root, ...root.subgraphs.values()].flatMap((graph) => graph.nodes);
        return ids.map((id) => all.find((node) => node.id === id && node.comfyClass === 'DiffQuickFix_Edit')
            .widgets.find((widget) => widget.name === 'layer').value);
    }"""
    return page.run(code, *edits)


def press(page):
    """Press "edit this layer"; what it says at once, before the pointer stands over a cell that says more."""
    return page.run(f"(name) => {{ ({PRESS})(name); return {WORDS}; }}", SET)


@pytest.fixture
def graph(page):
    page.clear()
    page.view()
    return page


def test_only_edits_of_the_traces_model_are_set(graph):
    page = graph
    one, two = loader(page), loader(page, "two.safetensors", at=(20, 700))
    heat_map(page, one)
    # What the old search took for the same model: a text that feeds both sides.
    text = page.add("PrimitiveString", at=(20, 900), widgets={"value": "van gogh"})
    direct, others = edit(page, one, "CLIP"), edit(page, two, "CLIP", at=(1300, 60))
    for each in (direct, others):
        page.connect(text, "STRING", each, "source")
    unconnected = page.add(EDIT, at=(1600, 60), widgets={"layer": BEFORE})
    # Through what hands a CLIP on: LoRAs, clip skip, a reroute, another edit, a bypassed merge.
    lora = behind(page, "LoraLoader", one)
    skip = behind(page, "CLIPSetLastLayer", lora)
    reroute = behind(page, "Reroute", skip, into="")
    merge = behind(page, "CLIPMergeSimple", reroute, output="", into="clip1")
    page.connect(two, "CLIP", merge, "clip2")
    far, merged = edit(page, reroute, ""), edit(page, merge, "CLIP")
    behind_edit = edit(page, far, "clip")
    # The same file by another loader is the same model.
    again = edit(page, loader(page), "CLIP")
    said = press(page)
    assert layers(page, direct, far, behind_edit, again) == [0] * 4
    assert layers(page, others, merged, unconnected) == [BEFORE] * 3
    assert f"#{direct}" in said and f"#{others}" not in said and "now edits layer 0" in said
    page.run(PLACED, merge, {"mode": 4})
    press(page)
    assert layers(page, merged, others) == [0, BEFORE]
    assert not page.own_complaints()


def test_where_no_edit_has_the_model_it_is_said_and_the_selected_one_is_set(graph):
    page = graph
    one, two = loader(page), loader(page, "two.safetensors", at=(20, 700))
    merge = behind(page, "CLIPMergeSimple", one, into="clip1")
    page.connect(two, "CLIP", merge, "clip2")
    heat_map(page, merge)
    first, second = edit(page, one, "CLIP"), edit(page, two, "CLIP", at=(1300, 60))
    assert OTHER_MODEL in press(page)
    assert layers(page, first, second) == [BEFORE] * 2
    page.run("(id) => window.app.canvas.selectItems([window.app.graph.getNodeById(id)])", second)
    assert f"#{second}" in press(page)
    assert layers(page, first, second) == [BEFORE, 0]


def test_a_trace_of_a_model_that_is_no_longer_connected_sets_nothing(graph):
    page = graph
    one, two = loader(page), loader(page, "two.safetensors", at=(20, 700))
    heat = heat_map(page, one)
    first, second = edit(page, one, "CLIP"), edit(page, two, "CLIP", at=(1300, 60))
    stale = "document.querySelector('.diff-quickfix-heatmap-stale').textContent"
    page.wait(f"{stale} === ''")
    trace = page.run("(id) => window.app.graph.getNodeById(id).getInputNode(0).id", heat)
    page.connect(two, "CLIP", trace, "clip")
    page.wait(f"{stale}.includes('Made before you changed trace')")
    # Still the edit of the model that was traced.
    press(page)
    assert layers(page, first, second) == [0, BEFORE]
    # Another file in the loader is another model.
    code = "(id) => { window.app.graph.getNodeById(id).widgets[0].value = 'three.safetensors'; }"
    page.run(code, one)
    assert "another model than the one connected now" in press(page)
    # The workflow keeps of which model the trace is.
    page.load(page.run("window.app.graph.serialize()"))
    page.wait(f"{stale}.includes('Made before you changed trace')")
    assert "another model than the one connected now" in press(page)
    assert layers(page, second) == [BEFORE]
    page.shot("heatmap-stale")


def test_the_model_of_a_trace_file_is_not_known(graph):
    page = graph
    one = loader(page)
    only = edit(page, one, "CLIP")
    load = page.add("DiffQuickFix_LoadTrace", at=(20, 300))
    heat = page.add("DiffQuickFix_CausalHeatmap", at=(420, 60), size=(560, 600))
    page.connect(load, "trace", heat, "trace")
    show_payload(page, make_trace())
    assert "is not known here" in press(page)
    assert layers(page, only) == [BEFORE]
    # The words change the map's room.
    page.settle()
    page.click(*cell_at(page, 1, 0))
    page.wait(f"{KEPT}.pinned")
    assert "no self-attention layer" in press(page)


def test_edits_in_subgraphs_are_found_and_a_layer_that_a_link_feeds_is_left_alone(graph):
    page = graph
    one, two = loader(page), loader(page, "two.safetensors", at=(20, 700))
    heat_map(page, one)
    inner = edit(page, one, "CLIP")
    shown = behind(page, "CLIPTextEncode", inner, output="clip")
    page.run(
        "(...ids) => window.app.canvas.selectItems(ids.map((id) => window.app.graph.getNodeById(id)))", inner, shown
    )
    command(page, "Comfy.Graph.ConvertToSubgraph")
    outer = page.wait("window.app.graph.nodes.find((node) => node.subgraph)?.id")
    page.run("window.app.canvas.deselectAll()")
    assert "now edits layer 0" in press(page)
    (within,) = page.run(
        "[...window.app.graph.subgraphs.values()][0].nodes.map(({ id, comfyClass }) => [id, comfyClass])"
        f".filter(([, kind]) => kind === '{EDIT}').map(([id]) => id)"
    )
    assert layers(page, within) == [0]
    # The same subgraph behind another model too: what is set in one is set in both.
    code = """(id, layer) => {
        const { graph } = window.app;
        const node = graph.getNodeById(id);
        node.subgraph.nodes.find((one) => one.comfyClass === 'DiffQuickFix_Edit')
            .widgets.find((widget) => widget.name === 'layer').value = layer;
        const copy = LiteGraph.createNode(node.type);
        graph.add(copy);
        return copy.id;
    }"""
    copy = page.run(code, outer, BEFORE)
    page.connect(two, "CLIP", copy, "clip")
    assert OTHER_MODEL in press(page)
    assert layers(page, within) == [BEFORE]
    fed = edit(page, one, "CLIP")
    number = page.add("PrimitiveInt", at=(20, 900), widgets={"value": 3})
    page.connect(number, "INT", fed, "layer")
    assert "fed by a link" in press(page)
    assert layers(page, fed) == [BEFORE]
