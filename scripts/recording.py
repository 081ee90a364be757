"""Record the README's film: somebody types a name into Remove Concept, runs the template, and sees the sheet.

    python3 scripts/bootstrap.py run --browser -- python scripts/recording.py

Writes docs/remove-a-concept-film.webp from the real page on the stock server. Two minutes; nothing in it is drawn.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import real_page
import templates
from PIL import Image
from real_page import QUEUE_LEFT, ComfyPage, widget_of

ROOT = Path(__file__).resolve().parent.parent

TEMPLATE, NODE, SHEET = "remove-a-concept", "DiffQuickFix_RemoveConcept", "Before and after"
CONCEPT, BECOMES = "van gogh", "painting"
WIDTH, HEIGHT, SHOWN = 1400, 860, 860
MOST_BYTES = 3_000_000
# What is left out of view: notes, and the page's own bars.
_STAGE = """(kind, sheet, left, top, width, height) => {
    const graph = window.app.graph;
    for (const node of [...graph._nodes].filter((one) => one.type.endsWith('Note'))) graph.remove(node);
    const shown = graph._nodes;
    const from = [0, 1].map((axis) => Math.min(...shown.map((node) => node.pos[axis])));
    const to = [0, 1].map((axis) => Math.max(...shown.map((node) => node.pos[axis] + node.size[axis])));
    const scale = Math.min((width - left - 20) / (to[0] - from[0]), (height - top - 20) / (to[1] - from[1] + 40));
    return { scale, offset: [left / scale - from[0], top / scale - from[1] + 20] };
}"""
_LEFT, _TOP = 70, 110


class Film:
    """Pictures of a page with how long each is shown."""

    def __init__(self, page: ComfyPage) -> None:
        self._page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def take(self, milliseconds: int) -> None:
        """Show the page as it is now; where nothing has changed, the last picture stays for longer."""
        picture = real_page.picture(self._page)
        picture.thumbnail((SHOWN, SHOWN), Image.Resampling.LANCZOS)
        if self.frames and picture.tobytes() == self.frames[-1].tobytes():
            self.times[-1] += milliseconds
            return
        self.frames.append(picture)
        self.times.append(milliseconds)

    def write(self, path: Path) -> int:
        """Write an animated WebP without end, of as good a quality as :data:`MOST_BYTES` allow; the quality."""
        for quality in range(80, 20, -10):
            first, *rest = self.frames
            first.save(path, save_all=True, append_images=rest, duration=self.times, loop=0, quality=quality, method=6)
            if path.stat().st_size <= MOST_BYTES:
                return quality
        raise SystemExit(f"{path.name} has {path.stat().st_size:,} bytes; expected at most {MOST_BYTES:,}.")


def type_into(page: ComfyPage, film: Film, name: str, text: str) -> None:
    """Letter by letter, as the page shows it."""
    for end in range(len(text) + 1):
        page.run(f"(text) => {{ {widget_of(NODE, name)} = text; }}", text[:end])
        page.settle()
        film.take(90)
    film.take(600)


def record(page: ComfyPage) -> Film:
    # Numbers in the corner that change from frame to frame.
    page.run("window.app.extensionManager.setting.set('Comfy.Graph.CanvasInfo', false).then(() => true)")
    page.load(templates.read(TEMPLATE))
    page.rest(2)
    page.view(**page.run(_STAGE, NODE, SHEET, _LEFT, _TOP, WIDTH, HEIGHT))
    for name in ("concept", "becomes"):
        page.run(f"(text) => {{ {widget_of(NODE, name)} = text; }}", "")
    page.rest(1)
    film = Film(page)
    film.take(900)
    type_into(page, film, "concept", CONCEPT)
    type_into(page, film, "becomes", BECOMES)
    page.run("window.app.queuePrompt(0).then(() => true)")
    ends = time.monotonic() + 600
    while page.run(QUEUE_LEFT) and time.monotonic() < ends:
        page.settle()
        film.take(200)
        page.rest(0.8)
    page.rest(2)
    film.take(5000)
    return film


def main() -> int:
    with real_page.opened(WIDTH, HEIGHT, vue=True) as page:
        film = record(page)
    path = ROOT / "docs" / f"{TEMPLATE}-film.webp"
    quality = film.write(path)
    size = f"{path.stat().st_size:,} bytes at quality {quality}"
    print(f"{path.name}: {len(film.frames)} pictures, {sum(film.times) / 1000:.0f} s, {size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
