"""The help panel shows a node's page with its picture, in the reader's language."""

import json

from comfy_page import node_of
from diff_quickfix.demo_model.studies.server import PACK

PANEL = ".node-help-content"
HEATMAP = "DiffQuickFix_CausalHeatmap"
REFRESHED = f"""async (category) => {{
    await window.app.extensionManager.command.execute('Comfy.RefreshNodeDefinitions');
    return LiteGraph.registered_node_types.{HEATMAP}.category === category;
}}"""
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


def speak(page, language):
    """Have an open page speak another language, the nodes' categories too."""
    # Perhaps before the page has the language's words.
    page.choose_language(language)
    page.wait(REFRESHED, f"Diff-QuickFix/{locale_texts(language, 'main')['nodeCategories']['trace']}")


def test_the_help_panel_shows_the_page_with_its_picture_in_the_readers_language(page):
    page.clear()
    page.add(HEATMAP, at=(100, 160))
    page.view()
    text, source, words = open_help(page)
    assert source.endswith(f"/docs/{HEATMAP}.webp") and words.startswith("The node")
    assert "indirect effect" in text
    page.settle()
    page.shot("help")

    speak(page, "zh")
    text, translated_source, translated_words = open_help(page)
    title = locale_texts("zh", "nodeDefs")[HEATMAP]["display_name"]
    assert text.lstrip().startswith(title) and "English:" not in text
    assert translated_source == source and translated_words != words
    page.rest(0.5)
    page.shot("help-zh")
    # ComfyUI asks for a page in the reader's language first.
    assert not [entry for entry in page.own_complaints() if not entry[2].endswith("/en.md")]
