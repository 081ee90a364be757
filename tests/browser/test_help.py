"""The help panel shows a node's page with its picture."""

PANEL = ".node-help-content"


def test_the_picture_of_a_page_loads_in_the_help_panel(page):
    page.clear()
    page.add("DiffQuickFix_CausalHeatmap", at=(100, 160))
    page.view()
    page.run("(() => { window.app.canvas.selectItems([window.app.graph._nodes[0]]); return true; })()")
    page.wait("document.querySelector('[data-testid=info-button]')?.offsetParent && true")
    page.click_on("[data-testid=info-button]")
    page.wait(f"document.querySelector('{PANEL} img')?.naturalWidth > 150")
    source, words = page.run(f"(({{ src, alt }}) => [src, alt])(document.querySelector('{PANEL} img'))")
    assert source.endswith("/docs/DiffQuickFix_CausalHeatmap.webp") and words.startswith("The node")
    (text,) = page.text_of(PANEL)
    assert "indirect effect" in text
    page.rest(0.5)
    page.shot("help")
    # ComfyUI asks for a page in the reader's language first.
    assert not [entry for entry in page.own_complaints() if not entry[2].endswith("/en.md")]
