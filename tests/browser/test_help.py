"""The help panel shows a node's page with its picture, in the reader's language."""

import json

import pytest
from comfy_page import node_of
from diff_quickfix.demo_model.studies.server import PACK

PANEL = ".node-help-content"
HEATMAP = "DiffQuickFix_CausalHeatmap"
PICTURE = f"document.querySelector('{PANEL} img')"


def open_help(page):
    """Open the help panel of the only node; returns its text and the picture's address and words."""
    page.run(f"(() => {{ window.app.canvas.selectItems([{node_of(HEATMAP)}]); return true; }})()")
    page.wait("document.querySelector('[data-testid=info-button]')?.offsetParent && true")
    page.click_on("[data-testid=info-button]")
    page.wait(f"{PICTURE}?.naturalWidth > 150")
    return page.text_of(PANEL)[0], *page.run(f"(({{ src, alt }}) => [src, alt])({PICTURE})")


def locale_texts(language, file):
    return json.loads((PACK / "locales" / language / f"{file}.json").read_text())


@pytest.fixture
def speak(page):
    """Has the page speak a language, with its graph loaded again; English at the end."""

    def switch(language):
        page.run("(code) => window.app.extensionManager.setting.set('Comfy.Locale', code).then(() => true)", language)
        title = locale_texts(language, "nodeDefs")[HEATMAP]["display_name"]
        page.wait(f"(title) => {node_of(HEATMAP)}?.title === title", title)

    yield switch
    switch("en")


def test_the_help_panel_shows_the_page_with_its_picture_in_the_readers_language(page, speak):
    page.clear()
    page.add(HEATMAP, at=(100, 160))
    page.view()
    text, source, words = open_help(page)
    assert source.endswith(f"/docs/{HEATMAP}.webp") and words.startswith("The node")
    assert "indirect effect" in text
    page.rest(0.5)
    page.shot("help")

    for language in ("zh", "ja"):
        speak(language)
        text, translated_source, translated_words = open_help(page)
        title = locale_texts(language, "nodeDefs")[HEATMAP]["display_name"]
        assert text.lstrip().startswith(title) and "English:" not in text
        assert translated_source == source and translated_words != words
        categories = locale_texts(language, "main")["nodeCategories"]
        shown = page.run("LiteGraph.registered_node_types.DiffQuickFix_CausalHeatmap.category")
        assert shown == f"Diff-QuickFix/{categories['trace']}"
        page.rest(0.5)
        page.shot(f"help-{language}")
    # ComfyUI asks for a page in the reader's language first.
    assert not [entry for entry in page.own_complaints() if not entry[2].endswith("/en.md")]
