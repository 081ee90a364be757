"""What a report's rows do when they are pressed, what a refused node takes away, and where a saved file is told."""

from comfy_page import node_of, widget_of
from diff_quickfix.tracing.results.payload import heatmap_payload
from test_heatmap_widget import MAP, WORDS, show_payload
from test_heatmap_widget import NODE as HEAT
from test_report_widget import BOX, EDIT, METERS, PRESERVE, QUEUED, REFUSAL, run_edit
from traces import make_trace

RUN = ".diff-quickfix-notes.diff_quickfix_run"


def boxes(page, kind):
    """JavaScript for the report on the first node of a kind."""
    return f"{node_of(kind)}.widgets.find((one) => one.name === 'diff_quickfix_report').element.querySelector('{BOX}')"


def press_in(page, box, label):
    """Press a button by the keyboard; whether it showed that it had the focus."""
    code = f"(label) => [...{box}.querySelectorAll('button')].find((one) => one.textContent === label).focus()"
    # The page knows by a key that the keyboard is used.
    page.press("Tab")
    page.run(code, label)
    ringed = page.run("document.activeElement.style.outline !== ''")
    page.press("Enter")
    page.settle()
    return ringed


def test_rows_of_radar_and_targets_are_pressed_and_a_saved_file_is_told_and_listed(page):
    run_edit(page, preset="paper")
    loader, edit = (page.run(f"{node_of(kind)}.id") for kind in ("DiffQuickFix_LoadShapesDemo", "DiffQuickFix_Edit"))
    radar = page.add("DiffQuickFix_CollateralRadar", at=(920, 60), size=(420, 560), widgets={"hits": 5})
    names = {"candidates": "painting\ndrawing"}
    find = page.add("DiffQuickFix_FindTarget", at=(920, 660), size=(420, 640), widgets=names)
    save = page.add("DiffQuickFix_SaveEditAsLoRA", at=(20, 300), size=(360, 160))
    load = page.add("LoraLoader", at=(20, 560))
    for source, output, target, into in (
        (loader, "clip", radar, "clip"),
        (edit, "edit", radar, "edit"),
        (loader, "clip", find, "clip"),
        (edit, "edit", save, "edit"),
    ):
        page.connect(source, output, target, into)
    page.queue()
    found, ranked = boxes(page, "DiffQuickFix_CollateralRadar"), boxes(page, "DiffQuickFix_FindTarget")
    page.wait(f"{found}.querySelectorAll('button').length === 5 && {ranked}.querySelectorAll('button').length >= 3")
    page.shot("rows")
    hit = page.run(f"{found}.querySelector('button').parentElement.firstChild.textContent")
    assert press_in(page, found, "add to preserve")
    assert page.run(PRESERVE) == hit
    assert page.run(f"Math.min(...[...{found}.querySelectorAll('button')].map((one) => one.offsetHeight))") >= 24
    code = f"""[...{ranked}.querySelectorAll('button')].filter((one) => one.textContent === 'use')
        .map((one) => one.parentElement.firstChild.textContent)"""
    rows = page.run(code)[1:]
    assert sorted(rows) == ["drawing", "painting"]
    page.run(f"{EDIT}.widgets.find((one) => one.name === 'target').value = 'photo'")
    code = f"""[...{ranked}.querySelectorAll('button')]
        .filter((one) => one.parentElement.firstChild.textContent === 'drawing')[0].click()"""
    page.run(code)
    assert page.run(widget_of("DiffQuickFix_Edit", "target")) == "drawing"
    # The file: told on the node, and in the list of a loader that was there before, and of a new one.
    page.wait(f"document.querySelector('{RUN}')?.textContent.includes('output/loras/diff-quickfix/edit_')")
    said = page.run(f"document.querySelector('{RUN}').textContent")
    assert said.startswith("Saved ") and " KiB" in said
    name = said.split("loras/")[1].split(",")[0]
    listed = "(id) => window.app.graph.getNodeById(id).widgets[0].options.values"
    page.wait(f"(id, name) => ({listed})(id).includes(name)", load, name)
    fresh = page.add("DiffQuickFix_LoadEdit", at=(20, 800))
    assert name in page.run(f"{listed.replace('widgets[0]', 'widgets.find((one) => one.name === `file`)')}", fresh)
    assert not page.own_complaints()


def test_a_refused_node_takes_away_what_the_nodes_behind_it_showed(page):
    run_edit(page, preset="paper")
    loader, edit = (page.run(f"{node_of(kind)}.id") for kind in ("DiffQuickFix_LoadShapesDemo", "DiffQuickFix_Edit"))
    concepts = page.add("DiffQuickFix_ConceptEditList", at=(20, 300), size=(360, 220))
    page.connect(concepts, "concepts", edit, "concepts")
    code = """(id, text) => {
        window.app.graph.getNodeById(id).widgets.find((one) => one.name === 'edits').value = text;
    }"""
    page.run(code, concepts, "claude monet -> painting | kind=nonsense")
    page.queue()
    page.wait(f"document.querySelector('{REFUSAL}')?.textContent.startsWith('Not run, because Concept Edit List')")
    assert page.run(f"document.querySelector('{RUN}').textContent").startswith("line 1")
    assert not page.run(f"{METERS}.length")
    page.shot("refused-behind")
    page.run(code, concepts, "claude monet -> painting")
    page.queue()
    page.wait(f"{METERS}.length >= 4 && !document.querySelector('{RUN}') && !document.querySelector('{REFUSAL}')")
    # A trace that is refused: its node, which has no view, says so, and the heat map's old trace goes.
    trace = page.add("DiffQuickFix_CausalTraceText", at=(20, 560), widgets={"prompts": "no brackets"})
    heat = page.add("DiffQuickFix_CausalHeatmap", at=(920, 60), size=(480, 600))
    latent, negative = page.add("EmptyLatentImage"), page.add("CLIPTextEncode")
    for source, output, target, into in (
        *((loader, name, trace, name) for name in ("model", "clip", "vae")),
        (loader, "clip", negative, "clip"),
        (negative, "CONDITIONING", trace, "negative"),
        (latent, "LATENT", trace, "latent"),
        (trace, "trace", heat, "trace"),
    ):
        page.connect(source, output, target, into)
    show_payload(page, make_trace())
    page.wait(f"{WORDS}.includes('runs a cell')")
    page.queue()
    page.wait(f"{WORDS}.startsWith('Not run, because Causal Trace')")
    told = f"{node_of('DiffQuickFix_CausalTraceText')}.widgets.at(-1)"
    page.wait(f"{told}.name === 'diff_quickfix_run' && {told}.element.textContent.includes('no brackets')")
    assert "diff_quickfix_heatmap_data" not in page.run(f"Object.keys({HEAT}.properties)")
    page.shot("refused-trace")
    assert not page.own_complaints()


TELL = """(event, detail) => window.comfyAPI.api.api.dispatchEvent(new CustomEvent(event, { detail }))"""


def test_a_map_fills_while_it_is_traced_and_a_cancelled_trace_says_how_it_goes_on(page):
    page.clear()
    trace = page.add("DiffQuickFix_CausalTraceText", at=(20, 60), size=(380, 720))
    heat = page.add("DiffQuickFix_CausalHeatmap", at=(420, 60), size=(560, 700))
    page.connect(trace, "trace", heat, "trace")
    page.view()
    page.wait(f"document.querySelector('{MAP}') !== null")
    part = make_trace()
    part.restored[..., 9:, :] = float("nan")
    payload = {"node_id": str(trace), "payload": heatmap_payload(part)}
    # Of a run that this page did not ask for, nothing is shown.
    page.run(TELL, "diff_quickfix_trace", payload)
    page.rest(0.3)
    assert "runs a cell" not in page.run(WORDS)
    page.run(QUEUED)
    page.run(TELL, "diff_quickfix_trace", payload)
    stale = "document.querySelector('.diff-quickfix-heatmap-stale').textContent"
    page.wait(f"{WORDS}.includes('runs a cell') && {stale}.includes('Being traced')")
    page.shot("heatmap-filling")
    page.run(TELL, "execution_interrupted", {"node_id": str(trace)})
    page.wait(f"{stale}.includes('Cancelled: a part alone was traced')")
    told = f"{node_of('DiffQuickFix_CausalTraceText')}.widgets.at(-1)"
    page.wait(f"{told}.name === 'diff_quickfix_run' && {told}.element.textContent.includes('Run again to go on')")
    assert "diff_quickfix_heatmap_data" not in page.run(f"Object.keys({HEAT}.properties)")
    # What a cancelled trace showed goes with the next whole one.
    show_payload(page, make_trace())
    page.wait(f"!{stale}.includes('Cancelled')")
    assert not page.own_complaints()
