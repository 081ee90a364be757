"""What the pack's views say can be read on every palette of ComfyUI: contrast as WCAG 2 defines it, of the colors that
the page computed."""

import pytest
from comfy_page import node_of
from diff_quickfix.tracing.results.payload import heatmap_payload
from test_heatmap_widget import LIGHT as PALETTE
from test_heatmap_widget import MAP
from test_picker_widget import BOX as PICKER
from test_picker_widget import type_into
from test_report_widget import BOX as REPORT
from test_report_widget import TOLD
from traces import make_trace

PALETTES = ("dark", "light", "solarized", "arc", "nord", "github")
VIEWS = [f"document.querySelector('{one}').parentElement" for one in (MAP, REPORT)] + [
    f"document.querySelector('{PICKER}')"
]
MEASURES = {
    "verdict": "weak: half of it is left",
    "efficacy": 0.9,
    "specificity": 0.4,
    "generality": 0.0,
    "drift": 0.2,
    "worst_hit": [["a cat", 0.1]],
}
# [least contrast, what] of all texts, and of all marks: bars, and the verdict's edge.
CONTRASTS = """(() => {
    const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const levels = (color) => {
        pen.clearRect(0, 0, 1, 1);
        pen.fillStyle = color;
        pen.fillRect(0, 0, 1, 1);
        return [...pen.getImageData(0, 0, 1, 1).data].map((level) => level / 255);
    };
    const over = (color, below) => [0, 1, 2].map((i) => color[i] * color[3] + below[i] * (1 - color[3]));
    const paper = (element) => {
        if (!element) return [1, 1, 1];
        const color = levels(getComputedStyle(element).backgroundColor);
        return color[3] === 1 ? color.slice(0, 3) : over(color, paper(element.parentElement));
    };
    const light = (color) => color.map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4))
        .reduce((sum, level, i) => sum + level * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (color, element) => {
        const below = paper(element);
        const [low, high] = [light(over(levels(color), below)), light(below)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const faded = (one) => one && (Number(getComputedStyle(one).opacity) < 1 || faded(one.parentElement));
    const elements = [VIEWS].flatMap((view) => [view, ...view.querySelectorAll('*')]);
    const texts = elements.filter((one) => [...one.childNodes].some((part) => part.nodeType === 3 && part.data.trim()))
        .map((one) => [faded(one.parentElement) ? 0 : contrast(getComputedStyle(one).color, one), one.textContent]);
    const bars = elements.filter((one) => one.parentElement.getAttribute('role') === 'meter' && one.offsetWidth)
        .map((one) => [contrast(getComputedStyle(one).backgroundColor, one.parentElement), 'bar']);
    const edges = elements.filter((one) => parseFloat(getComputedStyle(one).borderLeftWidth) > 3)
        .map((one) => [contrast(getComputedStyle(one).borderLeftColor, one), 'edge']);
    return [texts, [...bars, ...edges]];
})()""".replace("VIEWS", ", ".join(VIEWS))


@pytest.fixture(scope="module")
def views(page):
    """The three views, with all that they can say."""
    page.clear()
    page.add("DiffQuickFix_CorruptPrompt", at=(60, 100), size=(360, 560))
    page.add("DiffQuickFix_CausalHeatmap", at=(440, 100), size=(480, 640))
    page.add("DiffQuickFix_Edit", at=(940, 100), size=(400, 740))
    page.view()
    type_into(page, "subject", "not there")
    heat, edit = node_of("DiffQuickFix_CausalHeatmap"), node_of("DiffQuickFix_Edit")
    page.run(f"(trace) => {heat}.onExecuted({{ diff_quickfix_heatmap: [trace] }})", heatmap_payload(make_trace()))
    code = f"""(report) => {edit}.onExecuted({{
        diff_quickfix_report: ['words', report], diff_quickfix_settings: [{{ target: 'other' }}],
    }})"""
    page.run(code, MEASURES)
    page.wait(f"document.querySelector('{PICKER}')?.dataset.problem === 'true' && {TOLD}")
    page.run(f"document.querySelector('{MAP}').focus()")
    page.press("ArrowDown")
    page.press("Enter")
    page.run(f"document.querySelector('{REPORT} details').open = true")
    page.wait(f"document.querySelectorAll('{MAP} + div dt').length === 11")
    yield page
    page.run(PALETTE.format("dark"))


@pytest.mark.parametrize("palette", PALETTES)
def test_texts_and_bars_stand_out(views, palette):
    page = views
    page.run(PALETTE.format(palette))
    page.settle()
    texts, marks = page.run(CONTRASTS)
    page.shot(f"palette-{palette}")
    assert len(texts) > 50 and len(marks) >= 4
    assert [one for one in texts if one[0] < 4.5] == []
    assert [one for one in marks if one[0] < 3] == []


def test_a_faint_text_would_be_seen(views):
    page = views
    page.run(PALETTE.format("light"))
    page.settle()
    page.run(f"document.querySelector('{REPORT} summary').style.color = '#f44336'")
    texts, _ = page.run(CONTRASTS)
    # The red of errors on the light palette's #c9c9c9.
    (faint,) = [one for one in texts if one[0] < 4.5]
    assert faint[1] == "the report in words" and 2 < faint[0] < 2.5
    page.run(f"document.querySelector('{REPORT} summary').style.color = ''")
