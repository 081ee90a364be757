"""The page of a sweep: it holds all that it shows, says what the statistics say, and takes texts for texts."""

import dataclasses
from html.parser import HTMLParser

import pytest
from diff_quickfix.cli import main
from diff_quickfix.sweeps.plan import SweepError
from diff_quickfix.sweeps.report import report_page, write_report
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.scores import sweep_scores
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.tracing.results import heatmap
from made_up_sweeps import PROMPTS, MadeUpOpener, made_up_plan

HOSTILE = "<img src=x onerror=alert(1)>\"'&amp; by [<b>van</b> gogh]"
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's elements, texts of table cells, and what it would ask for."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.rows, self.asked, self.text = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        links = [v for k, v in attributes if k in ("src", "href", "xlink:href", "data", "action")]
        # The scale of colors is a picture within the page.
        self.asked += [link for link in links if not link.startswith(("#", "data:image/png;base64,"))]
        assert not [k for k, _ in attributes if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = SweepFolder.make(tmp_path_factory.mktemp("sweep"), made_up_plan((*PROMPTS, HOSTILE)))
    run_sweep(found, opener=MadeUpOpener())
    return found


@pytest.fixture(scope="module")
def text(folder):
    return report_page(folder, sweep_scores(folder))


def test_the_page_is_whole_and_asks_for_nothing(text):
    page = Page(text)
    assert page.open == [] and page.asked == []
    assert page.tags.count("svg") == 2 and {"main", "h1", "table", "caption", "figure"} <= set(page.tags)
    assert not {"script", "iframe", "link", "img", "b", "object"} & set(page.tags)
    assert "@import" not in text and "url(http" not in text and "default-src 'none'" in text
    assert '<html lang="en">' in text and "prefers-color-scheme: dark" in text
    assert text.count('role="img" aria-label=') == 2 and text.count('scope="col"') > 10


def test_the_page_says_what_the_statistics_say(folder, text):
    scores, page = sweep_scores(folder), Page(text)
    (strongest,) = [row for row in page.rows if row[:2] == ["text.0.self_attn", "subject"]][:1]
    assert strongest[2] == f"{float(scores.average[0, 0]):+.4f}" and strongest[-1] == "more"
    assert strongest[3:5] == [f"{float(end[0, 0]):+.4f}" for end in (scores.judgement.low, scores.judgement.high)]
    assert strongest[6:8] == [f"{float(p[0, 0]):.4f}" for p in (scores.judgement.p, scores.judgement.q)]
    for prompt in scores.trace.prompts:
        assert [row for row in page.rows if row[0] == prompt], prompt
    said = " ".join(page.text)
    for known in (folder.plan.hash, folder.plan.version, "a" * 64, "steps", "device cpu"):
        assert known in said
    assert f"{scores.judgement.runs:,}" in said and f"{scores.total:+.4f}" in said


def test_a_sweep_that_is_not_finished_is_reported_in_part_and_says_so(folder, tmp_path):
    longer = SweepFolder.make(tmp_path / "sweep", folder.plan.extended(["one [more]"], []))
    longer.merge(folder)
    with pytest.raises(SweepError, match="2 of 20 shards"):
        write_report(longer, tmp_path / "a.html")
    assert not list(tmp_path.glob("a.*"))
    code = main(["sweep", "report", str(longer.path), "--out", str(tmp_path / "a.html"), "--partial"])
    assert code == 0 and "9, and 1 that are not finished, left out" in (tmp_path / "a.html").read_text()
    assert main(["sweep", "report", str(longer.path), "--out", str(tmp_path / "a.html"), "--partial"]) == 1


def test_shards_of_different_devices_are_told(folder):
    scores = dataclasses.replace(sweep_scores(folder), made_with={"device cpu": 3, "device cuda": 5})
    page = report_page(folder, scores)
    assert "different devices" in page and "device cuda (5 shards)" in page
    assert "different devices" not in report_page(folder, sweep_scores(folder))


def test_too_many_cells_for_a_map_leave_the_tables(folder, monkeypatch):
    monkeypatch.setattr(heatmap, "_MOST_SITES", 2)
    page = report_page(folder, sweep_scores(folder))
    assert "<svg" not in page and "a heat map holds 2" in page and page.count("text.0.self_attn") > 3
