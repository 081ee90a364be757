"""The interactive heat map on "Causal Heatmap", with a trace whose numbers are known."""

import csv
import io
import xml.etree.ElementTree as xml

import pytest
from traces import BEST, make_trace

MAP = ".diff-quickfix-heatmap"
KEPT = "window.app.graph._nodes.find((n) => n.comfyClass === 'DiffQuickFix_CausalHeatmap').properties.diff_quickfix_heatmap"
WORDS = f"document.querySelector('{MAP}').previousElementSibling.textContent"
LAYER = "window.app.graph._nodes.find((n) => n.comfyClass === 'DiffQuickFix_Edit').widgets.find((w) => w.name === 'layer').value"


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
        const url = [...document.scripts].map(() => 0) && performance.getEntriesByType('resource')
            .map((entry) => entry.name).find((name) => name.includes('heatmap_draw'));
        const {{ layout }} = await import(url);
        const {{ parse }} = await import(url.replace('heatmap_draw', 'heatmap_model'));
        const {{ checkedState }} = await import(url.replace('heatmap_draw', 'heatmap_view'));
        const {{ properties }} = window.app.graph._nodes.find((n) => n.comfyClass === 'DiffQuickFix_CausalHeatmap');
        const width = Math.max(220, document.querySelector('{MAP}').clientWidth - 4);
        const place = layout(parse(properties.diff_quickfix_heatmap_data), checkedState(properties.diff_quickfix_heatmap), width);
        const line = place.lines.find((one) => one.row === row);
        const box = canvas.getBoundingClientRect();
        const scale = box.width / place.width;
        return [box.left + scale * (place.left + (column + 0.5) * place.wide), box.top + scale * (line.top + line.height / 2)];
    }}"""
    return page.run(code, row, column)


def test_the_pointer_reads_a_cell_and_a_click_pins_it(page, heatmap):
    trace = make_trace()
    x, y = cell_at(page, 0, 1)
    page.move(x, y)
    words = page.wait(f"{WORDS}.includes('restored score') && {WORDS}")
    for part in (f"site: {BEST[0]}", f"token: {BEST[1]}", f"{trace.best().effect:.3f}", "clean score: 1.000", "control: yes"):
        assert part in words, words
    page.click(x, y)
    assert page.wait(f"{KEPT}.pinned") == {"row": 0, "column": 1}
    assert page.wait(f"document.querySelectorAll('{MAP} + div dt').length") == 9
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
    assert page.run(f"{KEPT}.pinned") is None
    assert page.run(selected) == before
