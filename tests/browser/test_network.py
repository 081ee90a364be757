"""Neither the pack's scripts nor its Python ask anybody but the user's own server, whatever is used."""

import json

import pytest
from comfy_page import node_of
from test_heatmap_widget import MAP, PANEL, WORDS, add_heatmap, add_pictures, cell_at, choose
from test_picker_widget import CHIPS, add_picker
from test_report_widget import BOX as REPORT
from test_report_widget import run_edit
from traces import COLORS

LOCAL = ("data:", "blob:", "about:")
BUTTONS = f"[...document.querySelector('{MAP}').parentElement.querySelectorAll('button')].forEach((one) => one.click())"
# Every node of the pack, every widget of it set as a user sets it.
EVERY_WIDGET = """(kinds) => kinds.flatMap((kind, number) => {
    const node = LiteGraph.createNode(kind);
    node.pos = [60 + 420 * (number % 6), 60 + 700 * Math.floor(number / 6)];
    window.app.graph.add(node);
    return (node.widgets ?? []).map((widget) => {
        const { value } = widget;
        if (value !== undefined) widget.value = value;
        widget.callback?.(value);
        return `${kind}.${widget.name}`;
    });
})"""


@pytest.fixture(scope="module")
def free(page):
    """The page without the server's Content-Security-Policy, which keeps a page from asking other places."""
    page.call("Page.setBypassCSP", enabled=True)
    page.open()
    yield page
    page.call("Page.setBypassCSP", enabled=False)


def use_everything(page):
    """Every view of the pack on a page, and every widget of its nodes."""
    page.call("Browser.setDownloadBehavior", behavior="deny", browserContextId=page.context)
    heat = add_heatmap(page, "pictured")
    add_pictures(page, heat, COLORS)
    page.queue()
    page.wait(f"{WORDS}.includes('runs a cell')")
    page.click(*cell_at(page, 0, 1))
    page.wait(f"document.querySelectorAll('{PANEL} img').length === 3")
    choose(page, "value", "recovery")
    choose(page, "order of rows", "strongest first")
    page.run(BUTTONS)
    run_edit(page, preset="paper", preserve="a quiet lake")
    page.click_on(f"{REPORT} button")
    add_picker(page, "a house by claude monet", "monet")
    page.wait(f"document.querySelectorAll('{CHIPS}').length === 5")
    page.click_on(CHIPS, index=1)
    page.clear()
    kinds = page.run("Object.keys(LiteGraph.registered_node_types).filter((kind) => kind.startsWith('DiffQuickFix_'))")
    assert len(kinds) >= 20
    assert len(page.run(EVERY_WIDGET, kinds)) > 60
    page.rest(1)


def outside(page, server):
    """Requests to other places than the server: (URL, the scripts that asked)."""
    asked = list(zip(page.requests, page.asked_by, strict=True))
    return [(url, scripts) for url, scripts in asked if not url.startswith((server.url, *LOCAL))]


def test_no_request_of_the_packs_scripts_leaves_the_server(free, server):
    page = free
    loaded = len(page.requests)
    use_everything(page)
    asked = zip(page.requests[loaded:], page.asked_by[loaded:], strict=True)
    own = [url for url, scripts in asked if "/diff-quickfix/" in scripts]
    # The tokens of a prompt and the pictures of a cell are known to be asked for by the scripts.
    assert any("/diff_quickfix/tokens" in url for url in own) and any("/view?" in url for url in own)
    assert not [entry for entry in outside(page, server) if "/diff-quickfix/" in entry[1]]
    # What nobody is known to have asked for is nothing that was not asked for before the pack was used.
    before = set(page.requests[:loaded])
    assert not [url for url, scripts in outside(page, server) if not scripts and url not in before]


def test_a_request_of_a_script_of_the_pack_would_be_seen(free, server):
    """After a timer and a promise too."""
    page = free
    page.run("""new Promise((done) => setTimeout(() => Promise.resolve().then(() => {
        fetch('http://192.0.2.1/outside').catch(() => 0);
        done(true);
    }), 10))
    //# sourceURL=http://localhost/extensions/diff-quickfix/canary.js""")
    page.rest(0.3)
    assert [url for url, scripts in outside(page, server) if "/diff-quickfix/" in scripts] == [
        "http://192.0.2.1/outside"
    ]


def test_the_packs_python_opens_no_connection_in_the_server(page, server):
    """The guard saw the whole session: edits, heat maps, tokens."""
    assert page.run(f"{node_of('DiffQuickFix_Edit')}?.comfyClass ?? 'none'") is not None
    log = server.folder / "custom_nodes" / "network_guard" / "connections.jsonl"
    seen = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert not [entry for entry in seen if any("diff-quickfix" in file for file in entry["files"])]
