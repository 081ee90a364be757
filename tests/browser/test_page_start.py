"""What a page loads of the pack at its start, and what only with the first node that needs it."""

import pytest
from comfy_page import node_of
from diff_quickfix.demo_model.studies.server import PACK
from test_heatmap_widget import MAP, show_payload
from test_picker_widget import CHIPS
from test_report_widget import BOX as REPORT
from traces import make_trace

START = ["node_views.js"]
FILES = {
    "DiffQuickFix_CorruptPrompt": ({"subject_picker.mjs"}, f"document.querySelectorAll('{CHIPS}').length > 3"),
    "DiffQuickFix_Edit": (
        {"edit_report.mjs", "report_actions.mjs", "report_model.mjs"},
        f"document.querySelector('{REPORT}')?.textContent.length > 5",
    ),
    "DiffQuickFix_CausalHeatmap": (
        {
            "causal_heatmap.mjs",
            "edit_layer.mjs",
            *(
                f"heatmap_{part}.mjs"
                for part in ("draw", "files", "model", "payload", "pens", "pinned", "sheet", "view")
            ),
        },
        f"document.querySelector('{MAP} canvas')?.height > 100",
    ),
}
SHARED = {
    *("asked.mjs", "data.mjs", "dom.mjs", "name_notes.mjs", "node.mjs", "node_notes.mjs", "note_strip.mjs"),
    *("refusals.mjs", "texts.mjs", "typed_names.mjs", "wires.mjs"),
}


@pytest.fixture
def fresh(page):
    """A page where no node of the pack has been."""
    page.open_empty()
    return page


def loaded(page):
    """The files of the pack that a page asked for, in order."""
    path = f"{page.server.url}/extensions/diff-quickfix/"
    return [url.removeprefix(path) for url in dict.fromkeys(page.requests) if url.startswith(path)]


def names(files):
    return {file.rsplit("/")[-1] for file in files}


def test_a_page_starts_with_one_small_script_and_each_view_is_loaded_with_the_first_node_that_shows_it(page):
    page.open_empty()
    page.add("KSampler")
    page.rest(1)
    assert loaded(page) == START
    assert sum((PACK / "web" / file).stat().st_size for file in START) < 12_000
    before = names(START)
    for kind, (files, drawn) in FILES.items():
        page.add(kind, at=(60, 60), size=(560, 700))
        page.view()
        if kind.endswith("Heatmap"):
            show_payload(page, make_trace())
        page.wait(drawn)
        # In English no other words are asked for.
        assert names(loaded(page)) == before | files | SHARED
        before |= files | SHARED
        page.clear()
    asked = len(loaded(page))
    page.add("DiffQuickFix_ChangeEdit", size=(400, 700))
    # Now the view is there with its node.
    assert page.run(f"{node_of('DiffQuickFix_ChangeEdit')}.widgets.at(-1).element.textContent.length") > 5
    assert len(loaded(page)) == asked and not page.own_complaints()


def test_all_scripts_together_are_small():
    scripts = [*(PACK / "web").glob("*.js"), *(PACK / "web" / "lib").glob("*.mjs")]
    assert len(scripts) >= 10 and sum(script.stat().st_size for script in scripts) < 180_000


def test_what_arrives_before_its_view_is_shown_and_kept(fresh):
    """A run's result, and a workflow's, while the scripts that draw are on their way."""
    page = fresh
    code = """(report) => {
        const node = LiteGraph.createNode('DiffQuickFix_Edit');
        window.app.graph.add(node);
        node.onExecuted({ diff_quickfix_report: report });
        return node.widgets.at(-1).element.textContent;
    }"""
    assert page.run(code, ["in words", None]) == ""
    page.wait(f"document.querySelector('{REPORT}')?.textContent === 'in words'")
    graph = page.run("window.app.graph.serialize()")
    page.open()
    page.run("(graph) => window.app.loadGraphData(graph).then(() => true)", graph)
    page.wait(f"document.querySelector('{REPORT}')?.textContent === 'in words'")
    assert page.run(f"{node_of('DiffQuickFix_Edit')}.properties.diff_quickfix_report_data.report[0]") == "in words"


def test_scripts_that_cannot_be_fetched_are_told_and_asked_for_again(fresh):
    page = fresh
    page.call("Network.setBlockedURLs", urls=["*/lib/edit_report.mjs"])
    page.add("DiffQuickFix_Edit", at=(60, 60), size=(460, 820))
    place = "window.app.graph._nodes[0].widgets.at(-1).element"
    page.wait(f"{place}.textContent.includes('edit_report.mjs')")
    page.call("Network.setBlockedURLs", urls=[])
    page.add("DiffQuickFix_EditReport", at=(560, 60), size=(460, 400))
    page.wait(f"document.querySelectorAll('{REPORT}').length === 2 && !{place}.textContent.includes('edit_report.mjs')")
