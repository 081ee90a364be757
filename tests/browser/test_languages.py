"""The pack's own words on its nodes in the page's language."""

import json

from comfy_page import node_of
from diff_quickfix.demo_model.studies.server import PACK
from diff_quickfix.quickfix.measure.verdict import WEAK, Finding, Verdict
from diff_quickfix.tracing.results.payload import heatmap_payload
from test_heatmap_widget import MAP
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


def show_views(page):
    """The pack's three views, with something to say."""
    page.clear()
    page.add("DiffQuickFix_CorruptPrompt", at=(40, 80), size=(380, 560))
    page.add("DiffQuickFix_CausalHeatmap", at=(440, 80), size=(480, 640))
    page.add("DiffQuickFix_Edit", at=(940, 80), size=(380, 720))
    page.view()
    heat, edit = node_of("DiffQuickFix_CausalHeatmap"), node_of("DiffQuickFix_Edit")
    page.run(f"(trace) => {heat}.onExecuted({{ diff_quickfix_heatmap: [trace] }})", heatmap_payload(make_trace()))
    page.run(f"(report) => {edit}.onExecuted({{ diff_quickfix_report: ['', report] }})", MEASURES)


def speak(page, locale):
    """What the page does when its locale changes; it offers no German itself yet."""
    page.run("(locale) => { window.app.ui.settings.dispatchChange('Comfy.Locale', locale, 'en'); }", locale)


def pin(page):
    page.wait(f"document.querySelectorAll('{PICKER} button').length > 3")
    page.run(f"document.querySelector('{MAP}').focus()")
    page.press("ArrowDown")
    page.press("Enter")
    page.wait(f"document.querySelectorAll('{MAP} + div dt').length === 11")


def assert_speaks(page, language):
    table = texts(language)
    page.wait(f"(word) => {SAID}.includes(word)", table["Hit most:"])
    page.wait(f"document.querySelectorAll('{PICKER} button').length > 3")
    said = page.run(SAID)
    for text in SOME:
        assert table[text] in " ".join(said), text
    assert f"{table['weak']}: " in said and FINDING._replace(sentence=table[WEAK]).text() in said
    english = {text for text, translated in table.items() if translated != text and len(text) > 6}
    assert not english & {text.removesuffix(": ") for text in said}


def test_the_packs_views_speak_the_pages_language_and_change_with_the_setting(page):
    page.open_empty(locale="fr")
    show_views(page)
    pin(page)
    assert_speaks(page, "fr")
    page.shot("french")
    page.choose_language("ja")
    assert_speaks(page, "ja")
    page.choose_language("en")
    page.wait(f"{SAID}.includes('Hit most:')")
    assert not page.own_complaints()


def test_german_is_spoken_where_comfyui_offers_it_and_a_locale_that_is_not_known_is_english(page):
    show_views(page)
    pin(page)
    for locale in ("ar", "pt-BR", "../../x"):
        speak(page, "de")
        assert_speaks(page, "de")
        page.shot("german")
        asked = len(page.requests)
        speak(page, locale)
        page.wait(f"{SAID}.includes('Hit most:') && {SAID}.includes('order of rows')")
        assert not [url for url in page.requests[asked:] if "/texts/" in url]
    assert not page.own_complaints()


def test_a_page_that_starts_in_a_locale_that_is_not_known_is_english_without_a_request(page):
    page.open_empty(locale="../../x")
    show_views(page)
    page.wait(f"{SAID}.includes('Hit most:') && {SAID}.includes('order of rows')")
    assert not [url for url in page.requests if "/texts/" in url]
    assert not page.own_complaints()
