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


class ComfyPage(Page):
    """A page with ComfyUI in it.

    Args:
        vue: Nodes 2.0 instead of the classic canvas.
    """

    def __init__(self, browser: Chromium, server: Server, *, vue: bool, locale: str = "en") -> None:
        super().__init__(browser)
        self.server, self.vue = server, vue
        settings = {**_SETTINGS, "Comfy.VueNodes.Enabled": vue, "Comfy.Locale": locale}
        server.post("/settings", settings)
        self.open()

    def open(self) -> None:
        """Load or reload the page, until ComfyUI is ready."""
        self.go(self.server.url)
        ready = "window.app?.graph && window.app.vueAppReady !== false && window.app.extensionManager?.setting && true"
        self.wait(ready, timeout=300)
        self.rest(1)

    def load(self, workflow: dict[str, Any]) -> None:
        """Put a workflow (UI format) on the page."""
        self.run("async (graph) => { await window.app.loadGraphData(graph); }", workflow)
        self.rest(0.5)

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
        self.load({"nodes": [], "links": [], "version": 0.4, "last_node_id": 0, "last_link_id": 0})

    def queue(self, *, timeout: float = 300) -> None:
        """Run the graph on the page to its end."""
        before = len(self.server.get_json("/history"))
        self.run("window.app.queuePrompt(0).then(() => true)")
        self.wait(
            """async (before) => {
                const queue = await (await fetch('/queue')).json();
                const history = await (await fetch('/history')).json();
                return !queue.queue_running.length && !queue.queue_pending.length
                    && Object.keys(history).length > before;
            }""",
            before,
            timeout=timeout,
        )
        self.rest(0.5)

    def view(self, *, scale: float = 1.0, offset: tuple[float, float] = (0, 0)) -> None:
        """Zoom and move the graph's canvas."""
        code = """(scale, offset) => {
            const { canvas } = window.app;
            canvas.ds.scale = scale;
            canvas.ds.offset = offset;
            canvas.setDirty(true, true);
        }"""
        self.run(code, scale, list(offset))
        self.rest(0.5)

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
        self.rest(0.2)

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
