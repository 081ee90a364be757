"""The report on "Diff-QuickFix Edit": bars, verdict, and prompts to preserve."""

from comfy_page import node_of, widget_of
from test_heatmap_widget import CHECK, command, type_on_screen

BOX = ".diff-quickfix-report"
METERS = f"[...document.querySelectorAll('{BOX} [role=meter]')]"
NAMES = f"{METERS}.map((meter) => meter.getAttribute('aria-label'))"
PRESERVE = widget_of("DiffQuickFix_Edit", "preserve")


def run_edit(page, **widgets):
    page.clear()
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(20, 60))
    edit = page.add("DiffQuickFix_Edit", at=(420, 60), size=(460, 820), widgets=widgets)
    encode = page.add("CLIPTextEncode", at=(920, 60))
    kept = page.add("ConditioningZeroOut", at=(920, 300))
    show = page.add("PreviewAny", at=(920, 400))
    for source, output, target, into in (
        (loader, "clip", edit, "clip"),
        (edit, "clip", encode, "clip"),
        (encode, "CONDITIONING", kept, "conditioning"),
        (kept, "CONDITIONING", show, "source"),
    ):
        page.connect(source, output, target, into)
    page.view()
    page.queue()
    page.wait(f"document.querySelectorAll('{BOX} [role=meter]').length >= 4")


def test_the_report_has_bars_and_what_was_hit_can_be_preserved(page):
    run_edit(page, preset="paper", preserve="a quiet lake")
    names = page.run(NAMES)
    # Shares and drifts, and nothing that is neither: a condition number is no percentage.
    assert names == ["efficacy", "specificity", "drift", "empty prompt drift", "generality (style)"]
    code = f"""(name) => {{
        const meter = {METERS}.find((one) => one.getAttribute('aria-label') === name);
        const wide = (box) => box.getBoundingClientRect().width;
        return [Number(meter.getAttribute('aria-valuenow')), wide(meter.firstChild) / wide(meter)];
    }}"""
    value, length = page.run(code, "efficacy")
    assert 0.5 < value <= 1 and abs(length - value) < 0.02
    (words,) = page.text_of(BOX)
    assert "efficacy" in words and "Hit most" in words
    page.shot("report")
    hint = f"(name) => {METERS}.find((one) => one.getAttribute('aria-label') === name).parentElement.title"
    assert page.run(hint, "drift").endswith("Lower is better.") and page.run(hint, "efficacy").endswith(
        "Higher is better."
    )
    assert "lambda 0.01" in words
    smallest = f"Math.min(...[...document.querySelectorAll('{BOX} button')].map((one) => one.offsetHeight))"
    assert page.run(smallest) >= 24
    hit = page.run(f"document.querySelector('{BOX} button').parentElement.firstChild.textContent")
    # The box scrolls where its verdict is long.
    page.run(f"document.querySelector('{BOX} button').scrollIntoView({{ block: 'center' }})")
    page.click_on(f"{BOX} button")
    assert page.wait(PRESERVE + ".includes('\\n') && " + PRESERVE) == f"a quiet lake\n{hit}"
    page.click_on(f"{BOX} button")
    assert page.run(PRESERVE) == f"a quiet lake\n{hit}"
    assert not page.own_complaints()


def test_reports_of_other_versions_show_what_they_hold(page):
    page.clear()
    page.add("DiffQuickFix_Edit", at=(100, 60), size=(460, 820))
    page.view()
    report = {
        "verdict": "weak: half of the concept is left",
        "efficacy": 0.4,
        "generality": 0.9,
        "final_state_drift": 0.02,
        "pairs": 291,
        "storage": {"error": 1},
        "worst_hit": [["a cat", 0.1], [7, 1], "x"],
        "broken": "NaN",
    }
    code = "(text, report) => window.app.graph._nodes[0].onExecuted({ diff_quickfix_report: [text, report] })"
    page.run(code, "in words", report)
    page.wait(f"{METERS}.length")
    assert page.run(NAMES) == ["efficacy", "generality", "final state drift"]
    assert page.run(f"document.querySelectorAll('{BOX} button').length") == 1
    for findings in (None, 3, [], ["x"], [[1, {}]], [["half of {it}", None]], [["{a}", {"a": "b"}], 3]):
        page.run(code, "in words", {**report, "findings": findings})
        assert page.text_of(BOX)[0].startswith("weak: half of the concept is left")
    page.run(code, "in words", {**report, "findings": [["{a} and {toString}", {"a": "{b}<b>", "b": "c"}]]})
    assert page.text_of(BOX)[0].startswith("weak: {b}<b> and {toString}")
    for broken in (None, [], {}, {"verdict": "good"}, 3):
        page.run(code, "only words", broken)
        assert page.text_of(BOX) == ["only words"]


def test_remove_concept_says_where_it_edited_and_takes_what_to_preserve(page):
    page.clear()
    page.add("DiffQuickFix_RemoveConcept", at=(100, 60), size=(460, 820))
    page.view()
    way = "edited: the image model (SDXL (a, b)), where its text enters"
    hits = [["a cat", 0.02]]
    report = {"verdict": "strong", "efficacy": 0.9, "pooled": 0.8, "doors": 141, "worst_hit": hits}
    code = "(...report) => window.app.graph._nodes[0].onExecuted({ diff_quickfix_report: report })"
    page.run(code, f"{way}\nverdict: strong\n", report)
    page.wait(f"{METERS}.length")
    # A number of doors is no share of anything.
    assert page.run(NAMES) == ["efficacy", "pooled vector"]
    assert f"strong{way}efficacy" in "".join(page.text_of(BOX)[0].splitlines())
    page.click_on(f"{BOX} button")
    assert page.wait(widget_of("DiffQuickFix_RemoveConcept", "preserve")) == "a cat"
    # What a report of another version says is shown as it comes; one that does not say it has no such line.
    page.run(code, "edited: something else\nverdict: strong\n", report)
    assert "edited: something else" in page.text_of(BOX)[0]
    page.run(code, "verdict: strong\n", report)
    assert "edited" not in page.text_of(BOX)[0].replace("the report in words", "")
    assert not page.own_complaints()


EDIT = node_of("DiffQuickFix_Edit")
DRAWN = f"{METERS}.length >= 4"


def test_the_report_is_there_after_a_reload_another_tab_and_undo(page):
    run_edit(page, preset="paper")
    value = page.run(f"{METERS}[0].getAttribute('aria-valuenow')")
    page.run(CHECK)
    command(page, "Comfy.NewBlankWorkflow")
    page.wait(f"document.querySelectorAll('{BOX}').length === 0")
    command(page, "Workspace.PreviousOpenedWorkflow")
    page.wait(DRAWN)
    page.reload()
    page.wait(DRAWN)
    assert page.run(f"{METERS}[0].getAttribute('aria-valuenow')") == value
    page.run(f"{EDIT}.setSize([480, 830])")
    page.run(CHECK)
    command(page, "Comfy.Undo")
    page.wait(f"{EDIT}.size[0] === 460 && {DRAWN}")
    assert not page.own_complaints()


STALE = "document.querySelector('.diff-quickfix-stale')?.textContent"
TOLD, SILENT = f"{STALE}?.includes('Made before you changed')", f"{STALE} === ''"


def set_widgets(page, **values):
    """Set widgets of the edit node without telling anybody."""
    code = f"""(values) => Object.entries(values).forEach(([name, value]) => {{
        {EDIT}.widgets.find((widget) => widget.name === name).value = value;
    }})"""
    page.run(code, values)


def test_a_report_that_was_made_with_other_settings_says_so(page):
    run_edit(page, preset="paper", preserve="a quiet lake", strength=0.1)
    settings = page.run(f"{EDIT}.properties.diff_quickfix_report_data.report[2]")
    sent = page.run("window.app.graphToPrompt().then(({ output }) => Object.values(output))")
    (inputs,) = [one["inputs"] for one in sent if one["class_type"] == "DiffQuickFix_Edit"]
    # Every setting that was sent, and no link.
    assert settings == {name: value for name, value in inputs.items() if name != "clip"} and len(settings) == 12
    page.rest(0.5)
    assert page.run(SILENT)
    for name, value in (("target", "drawing"), ("layer", 1), ("strength", 0.2), ("preserve", "a quiet lake\n")):
        set_widgets(page, **{name: value})
        page.wait(f"{STALE} === '\u21bb Made before you changed {name}; run again.'")
        set_widgets(page, **{name: settings[name]})
        page.wait(SILENT)
    # What feeds a widget is another setting; what the widget held before says nothing then.
    text = page.add("PrimitiveString", at=(20, 400), widgets={"value": "drawing"})
    page.connect(text, "STRING", page.run(f"{EDIT}.id"), "target")
    page.wait(TOLD)
    page.run(f"{EDIT}.disconnectInput({EDIT}.inputs.findIndex((slot) => slot.name === 'target'))")
    page.wait(SILENT)
    set_widgets(page, target="drawing")
    page.wait(TOLD)
    shown = page.text_of(BOX)
    page.shot("report-stale")
    page.run(CHECK)
    page.reload()
    page.wait(f"{TOLD} && {DRAWN}")
    assert page.text_of(BOX) == shown
    page.queue()
    page.wait(SILENT)
    assert page.run(f"{EDIT}.properties.diff_quickfix_report_data.report[2].target") == "drawing"
    assert not page.own_complaints()


SOURCE = """(id, text) => {
    window.app.graph.getNodeById(id).widgets.find((one) => one.name === 'source').value = text;
}"""


def test_a_report_that_was_made_with_other_inputs_says_so(page):
    """Another model, another concept list behind a link, and another tab's run."""
    run_edit(page, preset="paper")
    page.rest(0.5)
    assert page.run(SILENT)
    edit = page.run(f"{EDIT}.id")
    loader = page.run(f"{EDIT}.getInputNode({EDIT}.inputs.findIndex((slot) => slot.name === 'clip')).id")
    skip = page.add("CLIPSetLastLayer", at=(20, 300))
    page.connect(loader, "clip", skip, "clip")
    page.connect(skip, "CLIP", edit, "clip")
    page.wait(TOLD)
    page.connect(loader, "clip", edit, "clip")
    page.wait(SILENT)
    concepts = page.add("DiffQuickFix_AddConceptEdit", at=(20, 500), widgets={"source": "claude monet"})
    page.connect(concepts, "concepts", edit, "concepts")
    page.wait(TOLD)
    before = page.run(f"{EDIT}.properties.diff_quickfix_report_data.report[0]")
    page.run("window.app.queuePrompt(0).then(() => true)")
    page.run(SOURCE, concepts, "dali")
    page.wait(f"(before) => {EDIT}.properties.diff_quickfix_report_data.report[0] !== before && {TOLD}", before)
    page.run(SOURCE, concepts, "claude monet")
    page.wait(SILENT)
    page.run(CHECK)
    page.load(page.run("window.app.graph.serialize()"))
    page.wait(f"{DRAWN} && {SILENT}")
    assert not page.own_complaints()


GIVE = """(id, text) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent('executed', { detail: {
    node: String(id), display_node: String(id), prompt_id: 'p', output: { diff_quickfix_report: [text, null] } } }))"""
QUEUED = "window.app.graph.nodes.forEach((node) => node.widgets?.forEach((widget) => widget.beforeQueued?.({})))"


def test_a_run_of_another_tab_is_not_shown_on_a_node_that_has_the_same_number(page):
    def add():
        page.load({"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})
        edit = page.add("DiffQuickFix_Edit", at=(60, 60), size=(460, 820))
        page.wait(f"document.querySelectorAll('{BOX}').length === 1")
        return edit

    page.clear()
    edit = add()
    page.run(QUEUED)
    page.run(CHECK)
    assert add() == edit
    page.run(GIVE, edit, "of the first tab")
    page.rest(0.3)
    assert page.text_of(BOX) == ["The report appears here after a run."]
    assert "diff_quickfix_report_data" not in page.run(f"Object.keys({EDIT}.properties)")
    page.run(CHECK)
    command(page, "Workspace.PreviousOpenedWorkflow")
    page.run(GIVE, edit, "of the first tab")
    page.wait(f"document.querySelector('{BOX}')?.textContent === 'of the first tab'")
    command(page, "Workspace.NextOpenedWorkflow")
    page.wait(f"document.querySelector('{BOX}')?.textContent === 'The report appears here after a run.'")
    page.rest(0.3)
    assert page.text_of(BOX) == ["The report appears here after a run."]


def test_settings_that_change_while_it_runs_are_other_settings(page):
    run_edit(page, preset="paper")
    set_widgets(page, target="drawing")
    page.run("window.app.queuePrompt(0).then(() => true)")
    set_widgets(page, target="photo")
    page.wait(f"{EDIT}.properties.diff_quickfix_report_data.report[2].target === 'drawing' && {TOLD}")
    page.view(scale=0.3, offset=(100, 400))
    page.wait(f"{METERS}.length === 0 && {STALE} === '\u21bb'")
    page.shot("report-stale-far")
    set_widgets(page, target="drawing")
    page.wait(SILENT)
    page.view()


def test_a_copy_shows_no_report_of_another_node_and_a_subgraph_keeps_its_own(page):
    run_edit(page, preset="paper")
    code = f"""((canvas) => {{
        canvas.deselectAll();
        canvas.select({EDIT});
        canvas.copyToClipboard();
        canvas.pasteFromClipboard();
    }})(window.app.canvas)"""
    page.run(code)
    page.wait(f"document.querySelectorAll('{BOX}').length === 2")
    texts = sorted(page.text_of(BOX), key=len)
    assert texts[0] == "The report appears here after a run." and "efficacy" in texts[1]
    # Neither after the workflow was saved and opened again.
    page.load(page.run("window.app.graph.serialize()"))
    page.wait(f"document.querySelectorAll('{BOX}').length === 2")
    texts = sorted(page.text_of(BOX), key=len)
    assert texts[0] == "The report appears here after a run." and "efficacy" in texts[1]
    page.run(f"((canvas) => {{ canvas.deselectAll(); canvas.select({EDIT}); }})(window.app.canvas)")
    command(page, "Comfy.Graph.ConvertToSubgraph")
    page.wait("window.app.graph._nodes.some((node) => node.subgraph)")
    page.run("""((app) => {
        const node = app.graph._nodes.find((one) => one.subgraph);
        app.canvas.openSubgraph(node.subgraph, node);
    })(window.app)""")
    page.wait(f"document.querySelectorAll('{BOX}').length >= 1 && {DRAWN}")
    assert not page.own_complaints()


def test_far_away_the_verdict_is_written_large(page):
    run_edit(page, preset="paper")
    full = page.text_of(BOX)
    page.view(scale=0.3, offset=(100, 400))
    page.wait(f"{METERS}.length === 0")
    (words,) = page.text_of(BOX)
    assert "efficacy" in words and len(words) < 60
    page.wait(f"""{type_on_screen(f"document.querySelector('{BOX}')")} >= 12""")
    page.shot("report-far")
    page.view()
    page.wait(DRAWN)
    assert page.text_of(BOX) == full


def test_a_workflow_file_cannot_plant_a_report_that_is_none(page):
    page.clear()
    page.add("DiffQuickFix_Edit", at=(60, 60), size=(460, 820))
    graph = page.run("window.app.graph.serialize()")
    node = str(graph["nodes"][0]["id"])
    for kept in (
        3,
        [],
        {"node": node},
        {"node": node, "report": [7, {}]},
        {"node": node, "report": "x"},
        {"node": "other", "report": ["words", {}]},
    ):
        graph["nodes"][0]["properties"]["diff_quickfix_report_data"] = kept
        page.load(graph)
        page.wait(f"document.querySelector('{BOX}')?.textContent === 'The report appears here after a run.'")
    graph["nodes"][0]["properties"]["diff_quickfix_report_data"] = {"node": node, "report": ["<b>words</b>", None]}
    page.load(graph)
    page.wait(f"document.querySelector('{BOX}')?.textContent === '<b>words</b>'")
    for settings in (3, "x", [], {"__proto__": 1}, {"no widget": "<b>"}, {"target": {"a": 1}}):
        graph["nodes"][0]["properties"]["diff_quickfix_report_data"] = {"node": node, "report": ["w", None, settings]}
        page.load(graph)
        page.wait(f"document.querySelector('{BOX}')?.textContent === 'w'")
        page.wait(TOLD if settings == {"target": {"a": 1}} else SILENT)
    assert not page.own_complaints()


def test_every_box_of_several_lines_is_told_from_the_others(page):
    page.clear()
    page.add("DiffQuickFix_ChangeEdit", at=(60, 100), size=(420, 700))
    page.add("DiffQuickFix_Edit", at=(520, 100), size=(420, 740))
    page.view()
    page.wait(f"document.querySelectorAll('{BOX}').length === 2")
    # The classic renderer has a placeholder in an empty box, Nodes 2.0 a label above each.
    said = """[...document.querySelectorAll('textarea')].filter((box) => box.offsetWidth)
        .map((box) => [...box.labels].map((label) => label.textContent.trim())[0] ?? box.placeholder)"""
    names = ["drop", "add", "reweight", "preserve", "templates"]
    page.wait(f"{said}.length === {len(names)}")
    assert sorted(one.split(": ")[0] for one in page.run(said)) == sorted(names)
    page.shot("boxes")


REFUSAL = ".diff-quickfix-refusal"


def test_a_refused_run_says_why_on_the_node_and_takes_the_old_verdict_away(page):
    run_edit(page, preset="paper")
    assert page.run(f"document.querySelector('{BOX}').parentElement.tabIndex") == 0
    source = widget_of("DiffQuickFix_Edit", "source")
    page.run(f"{source} = ''")
    page.queue()
    (sentence,) = page.wait(
        f"((found) => found.length && found)([...document.querySelectorAll('{REFUSAL}')].map((e) => e.textContent))"
    )
    assert "source" in sentence and not page.run(f"{METERS}.length")
    page.shot("refused")
    # Neither the file nor another look at the workflow brings the verdict back that no longer holds.
    page.run("""(async () => {
        const graph = window.app.graph.serialize();
        await window.app.loadGraphData(graph);
    })()""")
    page.settle()
    assert not page.run(f"{METERS}.length")
    page.run(f"{source} = 'van gogh'")
    page.queue()
    page.wait(f"{METERS}.length >= 4")
    assert not page.run(f"document.querySelectorAll('{REFUSAL}').length")


def test_an_editing_node_runs_alone(page):
    page.clear()
    loader = page.add("DiffQuickFix_LoadShapesDemo", at=(20, 60))
    edit = page.add("DiffQuickFix_RemoveConcept", at=(420, 60), size=(460, 820))
    for name in ("model", "clip"):
        page.connect(loader, name, edit, name)
    page.view()
    page.queue()
    page.wait(f"{METERS}.length >= 3")
