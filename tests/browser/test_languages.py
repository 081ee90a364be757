"""The pack's own words on its nodes in the page's language."""

import json

import pytest
from comfy_page import ComfyPage, node_of
from diff_quickfix.demo_model.studies.server import PACK
from diff_quickfix.quickfix.measure.verdict import WEAK, Finding, Verdict
from diff_quickfix.tracing.results.payload import heatmap_payload
from test_heatmap_widget import CHECK, MAP
from test_picker_widget import BOX as PICKER
from test_report_widget import BOX as REPORT
from traces import make_trace

FINDING = Finding(WEAK, {"reached": "30%"})
MEASURES = {
    "verdict": Verdict("weak", (FINDING,)).text(),
    "findings": [[*FINDING]],
    "efficacy": 0.3,
    "drift": 0.01,
    "worst_hit": [["a cat", 0.1]],
}
# All that people read or are read of the pack's views.
SAID = f"""['{MAP}', '{PICKER}', '{REPORT}'].flatMap((one) => {{
    const view = one === '{MAP}' ? document.querySelector(one).parentElement : document.querySelector(one);
    return [view, ...view.querySelectorAll('*')].flatMap((element) => [
        ...[...element.childNodes].filter((child) => child.nodeType === 3).map((child) => child.textContent),
        element.title, element.getAttribute('aria-label')]);
}}).filter(Boolean)"""
SOME = (
    "order of rows",
    "restored score",
    "add to preserve",
    "Hit most:",
    "efficacy",
    "the report in words",
    "words of the prompt; shift and click for several",
    "save the numbers as a table",
)


def texts(language):
    return json.loads((PACK / "web" / "texts" / f"{language}.json").read_text())


@pytest.fixture
def opened(browser, server):
    """Opens ComfyUI in a locale, with the pack's three views."""
    pages = []

    def open_page(locale, vue=False):
        page = ComfyPage(browser, server, vue=vue, locale=locale)
        pages.append(page)
        page.clear()
        page.add("DiffQuickFix_CorruptPrompt", at=(40, 80), size=(380, 560))
        page.add("DiffQuickFix_CausalHeatmap", at=(440, 80), size=(480, 640))
        page.add("DiffQuickFix_Edit", at=(940, 80), size=(380, 720))
        page.view()
        heat, edit = node_of("DiffQuickFix_CausalHeatmap"), node_of("DiffQuickFix_Edit")
        page.run(f"(trace) => {heat}.onExecuted({{ diff_quickfix_heatmap: [trace] }})", heatmap_payload(make_trace()))
        page.run(f"(report) => {edit}.onExecuted({{ diff_quickfix_report: ['', report] }})", MEASURES)
        return page

    yield open_page
    for page in pages:
        page.close()
    server.post("/settings", {"Comfy.Locale": "en"})


def pin(page):
    page.wait(f"document.querySelectorAll('{PICKER} button').length > 3")
    page.run(f"document.querySelector('{MAP}').focus()")
    page.press("ArrowDown")
    page.press("Enter")
    page.wait(f"document.querySelectorAll('{MAP} + div dt').length === 9")


def assert_speaks(page, language):
    table = texts(language)
    page.wait(f"(word) => {SAID}.includes(word)", table["Hit most:"])
    page.wait(f"document.querySelectorAll('{PICKER} button').length > 3")
    said = page.run(SAID)
    for text in SOME:
        assert table[text] in " ".join(said), text
    assert f"{table['weak']}: {FINDING._replace(sentence=table[WEAK]).text()}" in said
    english = {text for text, translated in table.items() if translated != text and len(text) > 6}
    assert not english & {text.removesuffix(": ") for text in said}


@pytest.mark.parametrize("vue", [False, True])
def test_the_packs_views_speak_the_pages_language_and_change_with_the_setting(opened, vue):
    page = opened("fr", vue)
    pin(page)
    assert_speaks(page, "fr")
    page.shot("french")
    # The page loads its workflow again when the language changes.
    page.run(CHECK)
    page.run("window.app.extensionManager.setting.set('Comfy.Locale', 'ja').then(() => true)")
    assert_speaks(page, "ja")
    page.run("window.app.extensionManager.setting.set('Comfy.Locale', 'en').then(() => true)")
    page.wait(f"{SAID}.includes('Hit most:')")
    assert not page.own_complaints()


def test_german_is_spoken_where_comfyui_offers_it(opened):
    """The stock page has no German of its own yet: what it says when its locale changes is said in its place."""
    page = opened("en")
    pin(page)
    page.run("window.app.ui.settings.dispatchChange('Comfy.Locale', 'de', 'en')")
    assert_speaks(page, "de")
    page.shot("german")
    assert not page.own_complaints()


@pytest.mark.parametrize("locale", ["en", "ar", "pt-BR", "../../x"])
def test_other_locales_are_english_without_a_request(opened, locale):
    page = opened(locale)
    said = page.run(SAID)
    assert "Hit most:" in said and "order of rows" in said
    assert not [url for url in page.requests if "/texts/" in url]
