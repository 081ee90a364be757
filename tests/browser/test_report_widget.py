"""The report on "Diff-QuickFix Edit": bars, verdict, and prompts to preserve."""

from comfy_page import widget_of

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
        (loader, "clip", edit, "clip"), (edit, "clip", encode, "clip"),
        (encode, "CONDITIONING", kept, "conditioning"), (kept, "CONDITIONING", show, "source"),
    ):  # fmt: skip
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
    hit = page.run(f"document.querySelector('{BOX} button').parentElement.firstChild.textContent")
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
        "verdict": "weak: half of the concept is left", "efficacy": 0.4, "generality": 0.9, "final_state_drift": 0.02,
        "pairs": 291, "storage": {"error": 1}, "worst_hit": [["a cat", 0.1], [7, 1], "x"], "broken": "NaN",
    }  # fmt: skip
    code = "(text, report) => window.app.graph._nodes[0].onExecuted({ diff_quickfix_report: [text, report] })"
    page.run(code, "in words", report)
    page.wait(f"{METERS}.length")
    assert page.run(NAMES) == ["efficacy", "generality", "final state drift"]
    assert page.run(f"document.querySelectorAll('{BOX} button').length") == 1
    for broken in (None, [], {}, {"verdict": "good"}, 3):
        page.run(code, "only words", broken)
        assert page.text_of(BOX) == ["only words"]
