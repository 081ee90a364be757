"""The interactive heat map on "Causal Heatmap", with a trace whose numbers are known."""

import csv
import io
import json
import xml.etree.ElementTree as xml

import pytest
from comfy_page import node_of
from diff_quickfix.tracing.results.locate import best_cell
from diff_quickfix.tracing.results.payload import heatmap_payload
from traces import BEST, COLORS, PICTURED, make_trace

MAP = ".diff-quickfix-heatmap"
NODE = node_of("DiffQuickFix_CausalHeatmap")
KEPT = f"{NODE}.properties.diff_quickfix_heatmap"
WORDS = f"document.querySelector('{MAP}').previousElementSibling.textContent"


def add_heatmap(page, trace="known"):
    page.clear()
    load = page.add("DiffQuickFix_LoadTrace", at=(20, 60), widgets={"file": trace})
    heat = page.add("DiffQuickFix_CausalHeatmap", at=(280, 60), size=(640, 760))
    page.connect(load, "trace", heat, "trace")
    page.view()
    return heat


@pytest.fixture
def heatmap(page):
    """A graph that loads the known trace and has drawn it."""
    heat = add_heatmap(page)
    page.queue()
    page.wait(f"{WORDS}.includes('runs a cell')")
    return heat


def cell_at(page, row, column):
    """Where a row (counted from the top line on) and a column of the map stand on the page, from its geometry."""
    code = f"""async (row, column) => {{
        const canvas = document.querySelector('{MAP} canvas');
        const [{{ layout }}, {{ parse, checkedState }}] = await Promise.all(['draw', 'payload'].map(
            (part) => import(`/extensions/diff-quickfix/lib/heatmap_${{part}}.mjs`)));
        const {{ properties }} = {NODE};
        const state = checkedState(properties.diff_quickfix_heatmap);
        const width = Math.max(220, document.querySelector('{MAP}').clientWidth - 4);
        const room = document.querySelector('{MAP}').clientHeight - 4;
        const place = layout(parse(properties.diff_quickfix_heatmap_data), state, width, room);
        const line = place.lines.find((one) => one.row === row);
        const box = canvas.getBoundingClientRect();
        const scale = box.width / place.width;
        const at = [place.left + (column + 0.5) * place.wide, line.top + line.height / 2];
        return [box.left + scale * at[0], box.top + scale * at[1]];
    }}"""
    return page.run(code, row, column)


def test_the_pointer_reads_a_cell_and_a_click_pins_it(page, heatmap):
    trace = make_trace()
    x, y = cell_at(page, 0, 1)
    page.move(x, y)
    words = page.wait(f"{WORDS}.includes('restored score') && {WORDS}")
    effect = f"{best_cell(trace).effect:.3f}"
    for part in (f"site: {BEST[0]}", f"token: {BEST[1]}", effect, "clean score: 1.000", "control: yes"):
        assert part in words, words
    page.click(x, y)
    assert page.wait(f"{KEPT}.pinned") == {"row": 0, "column": 1}
    assert page.wait(f"document.querySelectorAll('{MAP} + div dt').length") == 11
    page.shot("heatmap")
    assert not page.own_complaints()


def test_keys_move_pin_fold_and_zoom_and_comfyui_does_not_hear_them(page, heatmap):
    selected = "[...window.app.canvas.selectedItems ?? []].length"
    before = page.run(selected)
    page.run(f"document.querySelector('{MAP}').focus()")
    for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "ArrowRight"):
        page.press(key)
    page.wait(f"{WORDS}.includes('site: text.1.self_attn') && {WORDS}.includes('token: gogh')")
    page.press("Enter")
    assert page.wait(f"{KEPT}.pinned") == {"row": 3, "column": 1}
    page.press("f")
    assert page.wait(f"{KEPT}.folded") == ["self_attn"]
    page.press("+")
    assert page.wait(f"{KEPT}.zoom") == 1.5
    page.press("Escape")
    page.wait(f"{KEPT}.pinned === null")
    assert page.run(selected) == before


def choose(page, label, value):
    """Pick an entry of one of the heat map's lists."""
    code = """(label, value) => {
        const list = document.querySelector(`select[aria-label="${label}"]`);
        list.value = value;
        list.dispatchEvent(new Event('change'));
    }"""
    page.run(code, label, value)


PRESS = '(name) => document.querySelector(`[role=toolbar] button[aria-label="${name}"]`).click()'


def press_button(page, name):
    page.run(PRESS, name)


def shown_color(page, row, column):
    """The color of the middle of a cell, as (red, green, blue)."""
    page.move(5, 5)
    page.settle()
    x, y = cell_at(page, row, column)
    code = f"""(x, y) => {{
        const canvas = document.querySelector('{MAP} canvas');
        const box = canvas.getBoundingClientRect();
        const scale = canvas.width / box.width;
        const at = [Math.round((x - box.left) * scale), Math.round((y - box.top) * scale)];
        return [...canvas.getContext('2d').getImageData(at[0], at[1], 1, 1).data].slice(0, 3);
    }}"""
    return page.run(code, x, y)


def test_values_have_their_own_colors_and_rows_their_order(page, heatmap):
    yellow = shown_color(page, 0, 1)
    assert yellow[0] > 240 and yellow[2] < 90
    choose(page, "value", "significance")
    page.wait(f"{WORDS}.includes('significance')")
    # A signed scale: what brings back a lot is orange.
    orange = shown_color(page, 0, 1)
    assert orange != yellow and orange[0] > orange[2] + 50
    choose(page, "value", "recovery")
    page.wait(f"{WORDS}.includes('recovery 0.8')")
    effects = make_trace().average_indirect_effect().amax(1)
    layers = [row for row in range(18) if row % 3 == 1]
    choose(page, "order of rows", "strongest first")
    page.wait(f"{KEPT}.order === 'strongest first'")
    choose(page, "value", "indirect effect")
    tops = {row: cell_at(page, row, 0)[1] for row in layers}
    assert sorted(layers, key=tops.get) == sorted(layers, key=lambda row: -float(effects[row]))
    choose(page, "order of rows", "strongest of all kinds first")
    page.wait(f"{KEPT}.order === 'strongest of all kinds first'")
    tops = {row: cell_at(page, row, 0)[1] for row in range(18)}
    assert sorted(tops, key=tops.get) == sorted(tops, key=lambda row: -float(effects[row]))
    page.shot("heatmap-all-kinds")
    # The ring of the keyboard's focus is covered by nothing, and rows fill their place.
    page.run(f"document.querySelector('{MAP}').focus()")
    page.press("ArrowDown")
    ring = f"""(({{ outlineStyle, outlineOffset }}) => [outlineStyle, outlineOffset])(
        getComputedStyle(document.querySelector('{MAP}')))"""
    assert page.run(ring)[0] != "none" and float(page.run(ring)[1].removesuffix("px")) >= 0
    filled = f"((map) => map.querySelector('canvas').offsetHeight / map.clientHeight)(document.querySelector('{MAP}'))"
    assert 0.8 < page.run(filled) <= 1.01


def show_payload(page, trace):
    """Show a trace as if the node had run."""
    page.run(f"(payload) => {NODE}.onExecuted({{ diff_quickfix_heatmap: [payload] }})", heatmap_payload(trace))


def test_the_site_is_copied_and_files_are_saved(page, heatmap, tmp_path):
    page.call(
        "Browser.grantPermissions",
        permissions=["clipboardReadWrite", "clipboardSanitizedWrite"],
        browserContextId=page.context,
    )
    press_button(page, "copy the name of the cell's site")
    page.wait(f"{WORDS} === 'Copied {BEST[0]}'")
    assert page.run("navigator.clipboard.readText()") == BEST[0]
    page.call(
        "Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path), browserContextId=page.context
    )
    for name in ("save as PNG", "save as SVG", "save the numbers as a table"):
        press_button(page, name)
    files = [tmp_path / f"causal-heatmap.{kind}" for kind in ("png", "svg", "csv")]
    page.until(lambda: all(file.exists() for file in files))
    assert (tmp_path / "causal-heatmap.png").read_bytes().startswith(b"\x89PNG")
    texts = [element.text for element in xml.parse(tmp_path / "causal-heatmap.svg").getroot().iter() if element.text]
    assert {"- self_attn", "gogh", "<padding>", "indirect effect (cosine)", "strongest"} <= set(texts)
    assert any("van gogh" in text and "runs a cell" in text for text in texts)
    # Light paper, though the page is dark.
    assert 'fill="#ffffff"' in (tmp_path / "causal-heatmap.svg").read_text()[:400]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "causal-heatmap.csv").read_text())))
    trace = make_trace()
    assert len(rows) == len(trace.sites) * len(trace.columns)
    effects = trace.average_indirect_effect().flatten().tolist()
    assert [float(row["effect"]) for row in rows] == pytest.approx(effects, rel=1e-3)
    assert sum(float(row["first"]) for row in rows) == pytest.approx(1, abs=1e-3)


PANEL = f"{MAP} + div"
# Names of the pinned cell's pictures, with the color of each.
SHOWN = f"""[...document.querySelectorAll('{PANEL} figure')].map((figure) => {{
    const image = figure.querySelector('img');
    if (!image.naturalWidth) throw Error('still loading');
    const context = document.createElement('canvas').getContext('2d');
    context.drawImage(image, 0, 0);
    const [red, green, blue] = context.getImageData(5, 5, 1, 1).data;
    return [figure.querySelector('figcaption').textContent, (red << 16) + (green << 8) + blue];
}})"""


def add_pictures(page, heat, colors):
    """Feed the heat map one picture of each color."""
    images = [page.add("EmptyImage", at=(20, 300), widgets={"width": 64, "height": 64, "color": c}) for c in colors]
    last = images[0]
    for image in images[1:]:
        batch = page.add("ImageBatch", at=(20, 500))
        page.connect(last, "IMAGE", batch, "image1")
        page.connect(image, "IMAGE", batch, "image2")
        last = batch
    page.connect(last, "IMAGE", heat, "pictures")


def test_each_pinned_cell_has_its_own_restored_picture_beside_clean_and_corrupted(page):
    heat = add_heatmap(page, "pictured")
    # In an order that is not the trace's.
    add_pictures(page, heat, [COLORS[3], COLORS[0], COLORS[2], COLORS[1]])
    page.queue()
    page.wait(f"{WORDS}.includes('runs a cell')")
    for cell, color in zip(PICTURED, COLORS[2:], strict=True):
        page.click(*cell_at(page, *cell))
        page.wait(f"{KEPT}.pinned?.column === {cell[1]}")
        shown = [["clean", COLORS[0]], ["corrupted", COLORS[1]], ["restored", color]]
        wanted = json.dumps(shown, separators=(",", ":"))
        # The former picture stays until the new one has loaded.
        page.wait(f"JSON.stringify({SHOWN}) === '{wanted}'")
        page.shot(f"heatmap-pinned-{cell[1]}")
    x, y = cell_at(page, 1, 0)
    page.click(x, y)
    page.wait(f"{KEPT}.pinned?.row === 1 && {SHOWN}.length === 2")
    effects = make_trace().average_indirect_effect()
    needed = int((effects >= effects[1, 0]).sum())
    assert f"set pictures on Causal Trace to {needed} or more" in page.text_of(PANEL)[0]
    assert not page.own_complaints()


def test_pictures_of_another_trace_are_never_shown(page):
    heat = add_heatmap(page, "pictured")
    page.queue()
    page.wait(f"{WORDS}.includes('runs a cell')")
    page.click(*cell_at(page, 0, 1))
    page.wait(f"document.querySelector('{PANEL}').textContent.includes('connect the examples')")
    add_pictures(page, heat, [0x123456, 0x345678, 0x56789A])
    page.queue()
    page.wait(f"document.querySelector('{PANEL}').textContent.includes('not of this trace')")
    assert page.run(f"document.querySelectorAll('{PANEL} img').length") == 0


LIGHT = "window.app.extensionManager.setting.set('Comfy.ColorPalette', '{}').then(() => true)"


def test_it_is_readable_in_the_light_theme(page, heatmap):
    page.run(LIGHT.format("light"))
    page.settle()
    style = f"getComputedStyle(document.querySelector('{MAP}').parentElement)"
    background = f"{style}.backgroundColor.match(/\\d+/g).map(Number)"
    corner = f"[...document.querySelector('{MAP} canvas').getContext('2d').getImageData(1, 1, 1, 1).data].slice(0, 3)"
    assert min(page.run(background)[:3]) > 180
    assert page.run(corner) == page.run(background)[:3]
    page.shot("heatmap-light")
    page.run(LIGHT.format("dark"))


def type_on_screen(element):
    """JavaScript for the size of an element's type as it is on the screen, in pixels."""
    return f"parseFloat(getComputedStyle({element}).fontSize) * window.app.canvas.ds.scale"


def test_far_away_the_main_finding_is_written_large(page, heatmap):
    words = f"document.querySelector('{MAP}').previousElementSibling"
    for scale in (0.4, 0.25):
        page.view(scale=scale, offset=(100, 400))
        page.wait(
            f"{WORDS} === '{BEST[0]} \u00b7 {BEST[1]} \u00b7 indirect effect {best_cell(make_trace()).effect:.3f}'"
        )
        page.wait(f"{words}.previousElementSibling.offsetHeight === 0")
        page.wait(f"{type_on_screen(words)} >= 12")
        over = ("Width", "Height")
        assert all(page.run(f"{words}.scroll{side} <= {words}.client{side} + 2") for side in over)
        page.shot(f"heatmap-far-{scale}")
    # The map fills its place, and answers.
    place = page.box(MAP)
    page.move(place["left"] + 0.3 * place["width"], place["top"] + 0.01 * place["height"] + 1)
    page.wait(f"{WORDS}.startsWith('{BEST[0]} \u00b7 {BEST[1]}')")
    page.move(place["x"], place["y"])
    page.wait(f"!{WORDS}.startsWith('{BEST[0]} ')")
    page.move(5, 5)
    page.view()
    page.wait(f"{WORDS}.includes('runs a cell') && {words}.previousElementSibling.offsetHeight > 0")


LAYERS = f"[...document.querySelectorAll('{MAP} canvas')]"


@pytest.mark.parametrize("size", [(640, 760), (360, 420)])
def test_labels_of_rows_and_columns_stay_in_view(page, size):
    heat = add_heatmap(page, "large")
    page.run("(id, size) => window.app.graph.getNodeById(id).setSize(size)", heat, list(size))
    page.queue()
    page.wait(f"{WORDS}.includes('runs a cell')")
    press_button(page, "zoom in")
    page.wait(f"{KEPT}.zoom === 1.5")
    corner = f"""((map) => {LAYERS}.map((layer) => {{
        const [a, b] = [layer, map].map((one) => one.getBoundingClientRect());
        return [Math.round(a.left - b.left), Math.round(a.top - b.top)];
    }}))(document.querySelector('{MAP}'))"""
    page.wait(f"((map) => map.scrollWidth > map.clientWidth + 200)(document.querySelector('{MAP}'))")
    assert page.run(corner) == [[0, 0]] * 3
    page.run(f"document.querySelector('{MAP}').scrollTo(200, 500)")
    page.settle()
    cells, rows, columns = page.run(corner)
    assert cells == [-200, -500]
    assert rows == [0, -500], "the rows' labels move up with their rows and stay at the left"
    assert columns == [-200, 0], "the columns' labels move left with their columns and stay at the top"
    page.shot(f"heatmap-scrolled-{size[0]}")
    # What lies under the labels is not hit.
    box = page.box(MAP)
    page.move(box["left"] + 8, box["y"])
    page.settle()
    assert "runs a cell" in page.run(WORDS)
    page.move(box["x"], box["y"])
    page.wait(f"{WORDS}.includes('restored score')")
    page.run(f"document.querySelector('{MAP}').focus()")
    page.press("Home")
    page.wait(f"document.querySelector('{MAP}').scrollLeft === 0")


COUNT = f"document.querySelectorAll('{MAP}').length"
DRAWN = f"document.querySelector('{MAP} canvas')?.height > 100 && {WORDS}.includes('runs a cell')"
CHECK = "window.app.extensionManager.workflow.activeWorkflow.changeTracker.checkState()"


def command(page, name):
    page.run(f"window.app.extensionManager.command.execute('{name}').then(() => true)")
    page.settle()


def test_it_survives_another_tab_and_a_reload(page, heatmap):
    choose(page, "value", "recovery")
    page.run(CHECK)
    command(page, "Comfy.NewBlankWorkflow")
    page.wait(f"{COUNT} === 0")
    command(page, "Workspace.PreviousOpenedWorkflow")
    page.wait(DRAWN)
    page.reload()
    page.wait(DRAWN)
    assert page.run(f"{KEPT}.value") == "recovery"
    assert page.run("document.querySelector('select[aria-label=value]').value") == "recovery"


def test_it_survives_undo_copying_and_a_subgraph(page, heatmap):
    page.run(CHECK)
    page.run("(id) => window.app.graph.getNodeById(id).setSize([700, 700])", heatmap)
    page.run(CHECK)
    page.wait(DRAWN)
    command(page, "Comfy.Undo")
    assert page.run(f"{NODE}.size[0]") == 640
    page.wait(DRAWN)
    code = """() => {
        const { canvas } = window.app;
        const heat = canvas.graph._nodes.find((n) => n.comfyClass === 'DiffQuickFix_CausalHeatmap');
        canvas.deselectAll();
        canvas.select(heat);
        canvas.copyToClipboard();
        canvas.pasteFromClipboard();
    }"""
    page.run(f"({code})()")
    drawn = f"[...document.querySelectorAll('{MAP} canvas:first-child')].every((map) => map.height > 100)"
    page.wait(f"{COUNT} === 2 && {drawn}")
    page.run("window.app.canvas.selectItems([...window.app.canvas.graph._nodes])")
    command(page, "Comfy.Graph.ConvertToSubgraph")
    page.wait("window.app.graph._nodes.length === 1")
    page.run("((app, node) => app.canvas.openSubgraph(node.subgraph, node))(window.app, window.app.graph._nodes[0])")
    page.wait(f"{COUNT} >= 1 && {DRAWN}")
    page.queue()
    page.wait(DRAWN)
    assert not page.own_complaints()


def test_resizing_the_node_redraws_the_map_to_fit(page, heatmap):
    width = f"document.querySelector('{MAP} canvas').width"
    before = page.run(width)
    page.run("(id) => window.app.graph.getNodeById(id).setSize([900, 760])", heatmap)
    page.run("window.app.canvas.setDirty(true, true)")
    page.wait(f"{width} > {before} + 150")
