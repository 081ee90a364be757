"""A graph's wires as the page draws them: which of them cross, and which run behind nodes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from comfy_page import ComfyPage

Box = tuple[float, float, float, float]
# One drawing of the canvas, in which every stroke of a wire is noted; strokes that wires share are drawn once.
_STROKES = """(() => {
    const { canvas } = window.app, { graph, ds } = canvas, path = Path2D.prototype;
    const { moveTo, bezierCurveTo } = path, { scale } = ds, offset = [...ds.offset], strokes = [];
    let from, link;
    path.moveTo = function (...at) { from = at; moveTo.apply(this, at); };
    path.bezierCurveTo = function (...to) {
        if (link) strokes.push([[link.origin_id, link.origin_slot], link.target_id, [...from, ...to]]);
        bezierCurveTo.apply(this, to);
    };
    canvas.renderLink = function (...given) {
        link = given[3];
        Object.getPrototypeOf(this).renderLink.apply(this, given);
        link = null;
    };
    [ds.scale, ds.offset] = [0.1, [2000, 2000]];
    canvas.draw(true, true);
    [ds.scale, ds.offset] = [scale, offset];
    delete canvas.renderLink;
    Object.assign(path, { moveTo, bezierCurveTo });
    const boxes = Object.fromEntries(graph._nodes.map((node) => {
        const [left, top, width, height] = node.boundingRect;
        return [node.id, [left, top, left + width, top + height]];
    }));
    const links = [...graph.links.values()].map((one) => [one.origin_id, one.origin_slot]);
    return [strokes, boxes, links];
})()"""
_STEPS = 64
# The page ends a wire in a socket, this far inside its node at most.
_SOCKET = 20


@dataclass(frozen=True)
class Stroke:
    """A piece of a wire between two of its ends and reroutes: whose output it is, where it goes, and its points."""

    output: tuple[str, int]
    target: str
    points: np.ndarray


@dataclass(frozen=True)
class Wires:
    """What is drawn: the strokes, the nodes' boxes with their titles, and how many inputs each output feeds."""

    strokes: list[Stroke]
    boxes: dict[str, Box]
    fed: Counter[tuple[str, int]]

    def covered_nodes(self) -> list[tuple[str, str]]:
        """Pairs of nodes that lie over each other."""
        pairs = combinations(self.boxes.items(), 2)
        return [
            (node, other)
            for (node, a), (other, b) in pairs
            if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
        ]

    def behind_nodes(self) -> list[tuple[tuple[str, int], str]]:
        """(output, node) wherever a wire runs behind a node, its own ends included."""
        found = []
        for stroke in self.strokes:
            for node, (left, top, right, bottom) in self.boxes.items():
                inset = _SOCKET if node in (stroke.output[0], stroke.target) else 0
                low, high = np.array([left + inset, top]), np.array([right - inset, bottom])
                if ((stroke.points > low) & (stroke.points < high)).all(axis=1).any():
                    found.append((stroke.output, node))
        return found

    def crossings(self) -> list[tuple[tuple[str, int], tuple[str, int]]]:
        """The two outputs, once for every point in which their wires cross; wires of one output carry the same."""
        pairs = (
            (one, other)
            for one, other in combinations(self.strokes, 2)
            if one.output != other.output and _near(one.points, other.points)
        )
        return [(one.output, other.output) for one, other in pairs for _ in range(_meetings(one.points, other.points))]


def wires_of(page: ComfyPage) -> Wires:
    """The wires of the graph on the page."""
    strokes, boxes, links = page.run(_STROKES)
    time = np.linspace(0, 1, _STEPS + 1)[:, None]
    powers = ((1 - time) ** 3, 3 * (1 - time) ** 2 * time, 3 * (1 - time) * time**2, time**3)
    drawn = [
        Stroke(
            (str(node), slot),
            str(target),
            sum(power * corner for power, corner in zip(powers, np.reshape(corners, (4, 2)), strict=True)),
        )
        for (node, slot), target, corners in strokes
    ]
    return Wires(drawn, {node: tuple(box) for node, box in boxes.items()}, Counter((str(n), s) for n, s in links))


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the boxes around two lines touch: where they do not, the lines cannot cross."""
    return bool((one.min(0) <= other.max(0)).all() and (other.min(0) <= one.max(0)).all())


def _meetings(one: np.ndarray, other: np.ndarray) -> int:
    """In how many points two lines of straight pieces cross, where they do not end in the same point."""
    start, step = one[:-1, None], np.diff(one, axis=0)[:, None]
    begin, stride = other[None, :-1], np.diff(other, axis=0)[None]
    apart = begin - start
    with np.errstate(divide="ignore", invalid="ignore"):
        share = _cross(apart, stride) / _cross(step, stride)
        portion = _cross(apart, step) / _cross(step, stride)
    hits = (share >= 0) & (share < 1) & (portion >= 0) & (portion < 1)
    points = one[np.nonzero(hits)[0]] + share[hits][:, None] * np.diff(one, axis=0)[np.nonzero(hits)[0]]
    ends = [a for a in one[[0, -1]] for b in other[[0, -1]] if np.hypot(*(a - b)) < _SOCKET]
    return sum(all(np.hypot(*(point - end)) > _SOCKET for end in ends) for point in points)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
