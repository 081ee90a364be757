"""The pack's own words on its nodes in the page's language."""

import json

import pytest
from chromium import Chromium
from comfy_page import ComfyPage, node_of
from diff_quickfix.demo_model.server import PACK
from diff_quickfix.tracing.payload import heatmap_payload
from test_heatmap_widget import MAP
from test_picker_widget import BOX as PICKER
from test_report_widget import BOX as REPORT
from traces import make_trace

GERMAN = json.loads((PACK / "web" / "texts" / "de.json").read_text())
MEASURES = {"verdict": "strong", "efficacy": 0.9, "drift": 0.01, "worst_hit": [["a cat", 0.1]]}
# All that people read or are read of the pack's views.
SAID = f"""['{MAP}', '{PICKER}', '{REPORT}'].flatMap((one) => {{
    const view = one === '{MAP}' ? document.querySelector(one).parentElement : document.querySelector(one);
    return [view, ...view.querySelectorAll('*')].flatMap((element) => [
        ...[...element.childNodes].filter((child) => child.nodeType === 3).map((child) => child.textContent),
        element.title, element.getAttribute('aria-label')]);
}}).filter(Boolean)"""


@pytest.fixture(params=["classic", "vue"])
def german(request, browser: Chromium, server):
    page = ComfyPage(browser, server, vue=request.param == "vue", locale="de")
    yield page
    page.close()
    server.post("/settings", {"Comfy.Locale": "en"})


def fill(page):
    page.clear()
    page.add("DiffQuickFix_CorruptPrompt", at=(40, 80), size=(380, 560))
    page.add("DiffQuickFix_CausalHeatmap", at=(440, 80), size=(480, 640))
    page.add("DiffQuickFix_Edit", at=(940, 80), size=(380, 720))
    page.view()
    page.run(f"(trace) => {node_of('DiffQuickFix_CausalHeatmap')}.onExecuted({{ diff_quickfix_heatmap: [trace] }})",
             heatmap_payload(make_trace()))  # fmt: skip
    page.run(f"(report) => {node_of('DiffQuickFix_Edit')}.onExecuted({{ diff_quickfix_report: ['', report] }})", MEASURES)


def test_the_packs_views_speak_german_and_change_with_the_setting(german):
    fill(german)
    german.wait(f"document.querySelectorAll('{PICKER} button').length > 3")
    german.run(f"document.querySelector('{MAP}').focus()")
    german.press("ArrowDown")
    german.press("Enter")
    german.wait(f"document.querySelectorAll('{MAP} + div dt').length === 9")
    said = german.run(SAID)
    for text in ("order of rows", "restored score", "add to preserve", "Hit most:", "efficacy", "the report in words",
                 "words of the prompt; shift and click for several", "save the numbers as a table"):  # fmt: skip
        assert GERMAN[text] in " ".join(said), text
    english = {text for text, translated in GERMAN.items() if translated != text}
    assert not english & {text.removesuffix(": ") for text in said}
    german.shot("german")
    assert not german.own_complaints()
    german.run("window.app.extensionManager.setting.set('Comfy.Locale', 'en').then(() => true)")
    german.wait(f"document.querySelector('[role=toolbar] button[aria-label=\"save as PNG\"]') && {SAID}.length > 10")
    german.wait(f"document.querySelector('{MAP}').parentElement.textContent.includes('restored score')")


@pytest.mark.parametrize("locale", ["en", "xx-YY", "pt-BR", "../../x"])
def test_other_locales_are_english_without_a_request(browser, server, locale):
    page = ComfyPage(browser, server, vue=False, locale=locale)
    fill(page)
    assert "The report" not in page.run(SAID) and "Hit most:" in page.run(SAID)
    assert not [url for url in page.requests if "/texts/" in url]
    page.close()
    server.post("/settings", {"Comfy.Locale": "en"})
