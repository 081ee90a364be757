"""The page that reports a sweep, opened from the disk as its reader does: it asks for nothing, and can be read."""

import pytest
from chromium import Page
from diff_quickfix.sweeps.report import write_report
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.store import SweepFolder
from made_up_sweeps import PROMPTS, MadeUpOpener, made_up_plan

HOSTILE = "<script>document.title = 'hit'</script><img src=x onerror=\"document.title = 'hit'\"> by [van gogh]"
# The least contrast (WCAG 2) of any text outside the pictures, with what it says.
LEAST = """(() => {
    const levels = (color) => color.match(/[\\d.]+/g).map(Number);
    const paper = (e) => {
        for (; e; e = e.parentElement) {
            const found = levels(getComputedStyle(e).backgroundColor);
            if (found.length < 4 || found[3] === 1) return found.slice(0, 3);
        }
        return matchMedia('(prefers-color-scheme: dark)').matches ? [18, 18, 18] : [255, 255, 255];
    };
    const light = (color) => color.slice(0, 3).map((level) => level / 255)
        .map((l) => (l <= 0.04045 ? l / 12.92 : ((l + 0.055) / 1.055) ** 2.4))
        .reduce((sum, l, i) => sum + l * [0.2126, 0.7152, 0.0722][i], 0);
    const texts = [...document.querySelectorAll('main *')].filter((e) => !e.closest('svg')
        && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
    const all = texts.map((e) => {
        const [one, two] = [light(levels(getComputedStyle(e).color)), light(paper(e))].sort((a, b) => b - a);
        return [(one + 0.05) / (two + 0.05), e.textContent.slice(0, 40)];
    });
    return all.sort((a, b) => a[0] - b[0])[0];
})()"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = SweepFolder.make(tmp_path_factory.mktemp("sweep") / "sweep", made_up_plan((*PROMPTS, HOSTILE)))
    run_sweep(folder, opener=MadeUpOpener())
    path = folder.path.parent / "report.html"
    write_report(folder, path)
    return path


@pytest.fixture
def opened(browser, report):
    page = Page(browser)
    page.go(report.as_uri())
    page.wait("document.readyState === 'complete' && !!document.querySelector('main')")
    yield page
    page.close()


def test_the_page_asks_for_nothing_and_runs_nothing(opened, report):
    # What stands in the page itself is no request to anybody.
    assert {url for url in opened.requests if not url.startswith("data:")} == {report.as_uri()}
    assert opened.complaints == [] and opened.dialogs == []
    assert opened.run("document.title") == "Causal traces of none"
    assert opened.run("document.querySelectorAll('main script, main img').length") == 0
    shown = (
        "[...document.querySelectorAll('figure svg')].map((e) => e.getBoundingClientRect()).every((r) => r.width > 300)"
    )
    assert opened.run(shown) and opened.run("document.querySelectorAll('figure svg').length") == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_its_texts_can_be_read_and_it_fits_a_phone(opened, scheme):
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    opened.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
    contrast, said = opened.run(LEAST)
    assert contrast >= 4.5, said
    paper = opened.run("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    opened.call("Emulation.setDeviceMetricsOverride", width=390, height=800, deviceScaleFactor=1, mobile=False)
    assert opened.run("document.documentElement.scrollWidth") <= 390
    opened.press("Tab")
    assert opened.run("document.activeElement !== document.body")
