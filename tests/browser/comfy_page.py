"""ComfyUI's page: open it in one of its two renderers, load graphs, run them, look at nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from chromium import Chromium, Page
from diff_quickfix.demo_model.studies.server import PACK, Server

SCREENSHOTS = PACK / "build" / "screenshots"
# Each page keeps this from ComfyUI's own start-up dialogs.
_SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Workflow.Persist": True,
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MaximumFps": 10,
}


def node_of(kind: str) -> str:
    """JavaScript for the first node of a kind."""
    return f"window.app.graph._nodes.find((node) => node.comfyClass === '{kind}')"


def widget_of(kind: str, name: str) -> str:
    """JavaScript for the value of a widget of the first node of a kind."""
    return f"{node_of(kind)}.widgets.find((widget) => widget.name === '{name}').value"


# What a page is left with by a test that failed half way.
_TIDY = """(async (manager) => {
    manager.sidebarTab.activeSidebarTabId = null;
    document.querySelectorAll('.p-dialog-close-button').forEach((one) => one.click());
    await manager.setting.set('Comfy.ColorPalette', 'dark');
})(window.app.extensionManager)"""
# The runs that are not over yet; to be awaited.
QUEUE_LEFT = "fetch('/prompt').then((answer) => answer.json()).then((found) => found.exec_info.queue_remaining)"
# Everything that was asked of the page has been drawn: its next two frames are over, and the graph's canvas was drawn.
_SETTLED = """(async () => {
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    await frame();
    window.app.canvas?.draw(true, true);
    await frame();
    await frame();
})()"""


class ComfyPage(Page):
    """A page with ComfyUI in it.

    Args:
        vue: Nodes 2.0 instead of the classic canvas.
    """

    def __init__(self, browser: Chromium, server: Server, *, vue: bool) -> None:
        super().__init__(browser)
        self.server, self.vue = server, vue
        self.open()

    def open(self, *, locale: str = "en") -> None:
        """Load or reload the page, until ComfyUI is ready."""
        self.server.post("/settings", {**_SETTINGS, "Comfy.VueNodes.Enabled": self.vue, "Comfy.Locale": locale})
        self.go(self.server.url)
        ready = "window.app?.graph && window.app.vueAppReady !== false && window.app.extensionManager?.setting && true"
        self.wait(ready, timeout=300)
        self.rest(1)

    def open_empty(self, *, locale: str = "en") -> None:
        """Load the page again as one that has not shown a node of the pack yet; its requests are counted from here."""
        self.clear()
        self.run("localStorage.clear()")
        self.requests.clear()
        self.asked_by.clear()
        self.open(locale=locale)
        self.clear()

    def reload(self) -> None:
        """Load the page again, once it has kept the workflow that is on it."""
        self.rest(0.8)
        self.open()

    def choose_language(self, locale: str) -> None:
        """Choose a language in the settings; the page loads its workflow again then, which takes a while."""
        code = """(locale) => {
            const { setting, workflow } = window.app.extensionManager;
            workflow.activeWorkflow.changeTracker.checkState();
            window.app.graph.nodes.forEach((node) => { node.of_before = true; });
            return setting.set('Comfy.Locale', locale).then(() => window.app.graph.nodes.length);
        }"""
        count = self.run(code, locale)
        again = (
            "(count) => ((all) => all.length === count && all.every((one) => !one.of_before))(window.app.graph.nodes)"
        )
        self.wait(again, count)

    def tidy(self) -> None:
        """Close what a former test may have left open, speak English, and forget what was complained about."""
        self.run(_TIDY)
        if self.run("window.app.extensionManager.setting.get('Comfy.Locale')") != "en":
            self.open()
        self.complaints.clear()
        self.dialogs.clear()

    def settle(self) -> None:
        """Let the page draw what it was told."""
        self.run(_SETTLED)

    def load(self, workflow: dict[str, Any]) -> None:
        """Put a workflow (UI format) on the page, in a tab of its own."""
        self.run("async (graph) => { await window.app.loadGraphData(graph); }", workflow)
        self.settle()

    def add(
        self,
        kind: str,
        *,
        at: tuple[int, int] = (60, 60),
        size: tuple[int, int] | None = None,
        widgets: dict[str, Any] | None = None,
    ) -> int:
        """Add a node; returns its id."""
        code = """(kind, at, size, widgets) => {
            const node = LiteGraph.createNode(kind);
            node.pos = at;
            window.app.graph.add(node);
            if (size) node.setSize(size);
            for (const [name, value] of Object.entries(widgets ?? {}))
                node.widgets.find((widget) => widget.name === name).value = value;
            return node.id;
        }"""
        return self.run(code, kind, at, size, widgets)

    def connect(self, source: int, output: str, target: int, into: str) -> None:
        """Connect an output to an input by their names."""
        code = """(source, output, target, into) => {
            const [from, to] = [source, target].map((id) => window.app.graph.getNodeById(id));
            const places = [from.outputs.findIndex((slot) => slot.name === output),
                            to.inputs.findIndex((slot) => slot.name === into)];
            if (places.includes(-1)) throw Error(`no output ${output} or no input ${into}`);
            from.connect(places[0], to, places[1]);
        }"""
        self.run(code, source, output, target, into)

    def clear(self) -> None:
        """An empty graph in the only tab."""
        self.load({"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})
        code = """(async ({ workflow }) => {
            for (const one of [...workflow.openWorkflows])
                if (one !== workflow.activeWorkflow) await workflow.closeWorkflow(one);
        })(window.app.extensionManager)"""
        self.run(code)

    def queue(self, *, timeout: float = 300) -> None:
        """Run the graph on the page to its end."""
        last = "fetch('/history?max_items=1').then((answer) => answer.json()).then((found) => Object.keys(found)[0])"
        before = self.run(last)
        self.run("window.app.queuePrompt(0).then(() => true)")
        self.wait(f"async (before) => await {QUEUE_LEFT} === 0 && await {last} !== before", before, timeout=timeout)
        self.settle()

    def view(self, *, scale: float = 1.0, offset: tuple[float, float] = (0, 0)) -> None:
        """Zoom and move the graph's canvas."""
        code = """(scale, offset) => {
            const { canvas } = window.app;
            canvas.ds.scale = scale;
            canvas.ds.offset = offset;
            canvas.setDirty(true, true);
        }"""
        self.run(code, scale, list(offset))
        self.settle()

    def box(self, selector: str, *, index: int = 0) -> dict[str, float]:
        """Where an element is on the page: left, top, width, height, and its middle as x and y."""
        code = """(selector, index) => {
            const found = document.querySelectorAll(selector)[index];
            if (!found) throw Error(`no element ${selector} number ${index}`);
            const { left, top, width, height } = found.getBoundingClientRect();
            return { left, top, width, height, x: left + width / 2, y: top + height / 2 };
        }"""
        return self.run(code, selector, index)

    def click_on(self, selector: str, *, index: int = 0, shift: bool = False) -> None:
        """Click the middle of an element, with a real mouse event."""
        box = self.box(selector, index=index)
        self.click(box["x"], box["y"], shift=shift)
        self.settle()

    def text_of(self, selector: str) -> list[str]:
        """The texts of all elements that fit."""
        return self.run("(selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent)", selector)

    def shot(self, name: str) -> Path:
        """Keep a screenshot as build/screenshots/NAME-RENDERER.png."""
        path = SCREENSHOTS / f"{name}-{'vue' if self.vue else 'classic'}.png"
        self.screenshot(path)
        return path

    def own_complaints(self) -> list[tuple[str, str, str]]:
        """Console errors and warnings that the pack has to do with."""
        return [
            entry
            for entry in self.complaints
            if "diff-quickfix" in json.dumps(entry).lower() or "diffquickfix" in json.dumps(entry).lower()
        ]
