"""Prompts, subjects, file names and trace files of strangers; and what the pack's scripts leave alone."""

import json

from test_heatmap_widget import MAP, WORDS, add_heatmap, choose, press_button
from test_picker_widget import BOX as TOKENS
from test_picker_widget import add_picker
from test_report_widget import BOX as REPORT
from traces import HOSTILE, HOSTILE_FILE

HOSTILE_REPORT = {
    "verdict": HOSTILE,
    "efficacy": 0.5,
    HOSTILE: 0.5,
    "worst_hit": [[HOSTILE, 0.5], [HOSTILE * 100, 0.4]],
    "storage": HOSTILE,
}
# Elements that markup from data would have made.
MADE = "(box) => document.querySelectorAll(`${box} script, ${box} iframe, ${box} img, ${box} svg`).length"


def unharmed(page, box):
    assert page.run("(box) => document.querySelector(box).textContent.includes('onerror=alert(1)')", box)
    assert page.run(MADE, box) == 0
    page.rest(0.2)
    assert page.dialogs == [] and not page.own_complaints()


def test_a_hostile_trace_is_only_text(page):
    add_heatmap(page, HOSTILE_FILE)
    page.queue()
    page.wait(f"{WORDS}.includes('runs a cell')")
    choose(page, "value", "recovery")
    page.run(f"document.querySelector('{MAP}').focus()")
    page.press("ArrowDown")
    page.press("Enter")
    page.wait(f"document.querySelectorAll('{MAP} + div dt').length === 11")
    press_button(page, "save as SVG")
    page.shot("hostile-heatmap")
    # The map's whole view: words, canvas, pinned cell.
    page.run(f"document.querySelector('{MAP}').parentElement.classList.add('whole-view')")
    unharmed(page, ".whole-view")


def test_a_hostile_prompt_and_subject_are_only_text(page):
    add_picker(page, f"a house {HOSTILE}", HOSTILE)
    page.wait(f"document.querySelectorAll('{TOKENS} button').length > 10")
    assert page.run(MADE, TOKENS) == 0
    add_picker(page, "a house", HOSTILE)
    page.wait(f"document.querySelector('{TOKENS}').dataset.problem === 'true'")
    unharmed(page, TOKENS)


def test_a_hostile_report_is_only_text_and_its_names_land_in_preserve_as_they_are(page):
    page.clear()
    page.add("DiffQuickFix_Edit", at=(60, 60), size=(460, 820))
    page.view()
    code = "(text, report) => window.app.graph._nodes[0].onExecuted({ diff_quickfix_report: [text, report] })"
    page.run(code, HOSTILE, HOSTILE_REPORT)
    page.wait(f"Boolean(document.querySelector('{REPORT} button'))")
    page.run(f"document.querySelector('{REPORT} button').click()")
    assert HOSTILE in page.run("window.app.graph._nodes[0].widgets.find((w) => w.name === 'preserve').value")
    unharmed(page, REPORT)


def test_a_workflow_file_cannot_plant_anything_through_what_the_heat_map_keeps(page):
    page.clear()
    page.add("DiffQuickFix_CausalHeatmap", at=(60, 60), size=(600, 700))
    graph = page.run("window.app.graph.serialize()")
    kept = {"version": 1, "sites": [HOSTILE], "columns": [HOSTILE], "prompt": HOSTILE, "effect": [["1"]]}
    state = {"value": HOSTILE, "zoom": 1e9, "folded": [HOSTILE] * 999, "pinned": {"row": "__proto__", "column": -1}}
    for data in (kept, HOSTILE, [], {"refused": HOSTILE}, {**kept, "sites": ["a"] * 100_000}):
        graph["nodes"][0]["properties"] = {"diff_quickfix_heatmap": state, "diff_quickfix_heatmap_data": data}
        page.load(json.loads(json.dumps(graph)))
        page.wait(f"document.querySelector('{MAP}') !== null")
        assert page.run(f"document.querySelector('{MAP} canvas').height") < 200
    assert page.dialogs == [] and not page.own_complaints()


def test_the_packs_scripts_leave_window_alone(page):
    for kind in ("CausalHeatmap", "CorruptPrompt", "Edit"):
        page.add(f"DiffQuickFix_{kind}")
    page.wait(f"['{MAP}', '{TOKENS}', '{REPORT}'].every((one) => document.querySelector(one))")
    names = page.run("Object.keys(window).filter((name) => /quickfix|dqf|heatmap/i.test(name))")
    assert names == []
    assert page.run("[fetch, alert, addEventListener].every((native) => !/quickfix/i.test(native.toString()))")


def test_the_token_route_refuses_what_it_cannot_use(server):
    import urllib.error
    import urllib.request

    def status(body, kind="application/json", route="tokens"):
        request = urllib.request.Request(f"{server.url}/diff_quickfix/{route}", body, {"Content-Type": kind})
        try:
            return urllib.request.urlopen(request, timeout=60).status
        except urllib.error.HTTPError as error:
            return error.code

    good = json.dumps({"prompt": "a \ud800", "subject": "a"}).encode()
    assert status(good) == 200
    assert status(good, "text/plain") == 400
    for bad in (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"prompt": 1, "subject": ""}',
        b"[" * 50_000,
        b" " * 70_000 + good,
        json.dumps({"prompt": "x" * 4001, "subject": "x"}).encode(),
    ):
        assert status(bad) == 400
    fields = {"source": "a \ud800", "target": None, "kind": "style", "listed": False, "prompts": ["\ud800", HOSTILE]}
    assert status(json.dumps(fields).encode(), route="names") == 200
    for name, value in (("source", None), ("kind", 3), ("prompts", "x"), ("prompts", [3]), ("prompts", ["x"] * 25)):
        assert status(json.dumps({**fields, name: value}).encode(), route="names") == 400
    for long in ({"source": "x" * 4001}, {"prompts": ["x" * 4001]}):
        assert status(json.dumps({**fields, **long}).encode(), route="names") == 400
    assert status(b"{}", route="names") == 400
