"""The page comes up with the pack in it, in both renderers."""


def test_the_page_knows_the_packs_nodes_and_draws_them(page):
    page.clear()
    page.add("DiffQuickFix_Edit", at=(60, 120))
    page.view()
    assert page.run("LiteGraph.vueNodesMode") is page.vue
    assert page.run("window.app.graph._nodes[0].comfyClass") == "DiffQuickFix_Edit"
    assert page.shot("edit").stat().st_size > 10_000
    assert not page.own_complaints()
