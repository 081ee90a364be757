"""The tables of ``edits.py``: what a reader finds in pictures, and whether verdicts say so.

What counts was settled before any edit was read:

* *lost*: of the pictures that are not of the concept, how many of a hundred no longer show the edited attribute right,
  or any one of the others; the worst attribute counts.
* *left*: of the concept's own pictures, how many of a hundred still read as it.
* A verdict is **wrong** where it is "strong" or "weak" and more than :data:`HARM` are lost, where it is "harmful" and
  no more are lost than :data:`NOISE`, where it is "strong" and more than :data:`LEFT` are left, and where it is "weak"
  and none is left. Between :data:`NOISE` and :data:`HARM` either word is right about harm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from ...quickfix import EditReport
from ..worlds.catalog import SHAPES

HARM, NOISE, LEFT = 10.0, 5.0, 25.0
_Z = 1.96
_COLUMNS = (
    *("edit", "left", "lost", "object", "color", "style", "efficacy", "drift"),
    *("neighbours lost", "worst", "verdict", "wrong"),
)


@dataclass(frozen=True)
class Share:
    """So many of so many pictures."""

    count: int
    of: int

    @property
    def percent(self) -> float:
        return 100.0 * self.count / self.of if self.of else 0.0

    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval, in percent."""
        if not self.of:
            return 0.0, 100.0
        share, n = self.count / self.of, self.of
        middle, spread = share + _Z**2 / (2 * n), _Z * sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        low, high = (100.0 * (middle + sign * spread) / (1 + _Z**2 / n) for sign in (-1, 1))
        return max(0.0, low), min(100.0, high)

    def text(self) -> str:
        low, high = self.interval()
        return f"{self.percent:.0f} ({low:.0f} to {high:.0f})"


@dataclass(frozen=True)
class Outcome:
    """What an edit did to pictures.

    Attributes:
        name: of the trial.
        left: the concept's own pictures that still read as it; of none where no picture shows the concept.
        lost: for each attribute, the pictures of others that do not show it right any more; all did before.
        report: of the edit.
    """

    name: str
    left: Share
    lost: dict[str, Share]
    report: EditReport

    @property
    def harm(self) -> Share:
        """The attribute that is lost most."""
        return max(self.lost.values(), key=lambda share: share.percent)

    @property
    def word(self) -> str:
        return self.report.verdict.split(":")[0]

    def wrong(self) -> str:
        """What is wrong about the verdict; empty where nothing is."""
        return wrong_about(self.word, self.harm, self.left)


def wrong_about(word: str, harmed: Share, left: Share) -> str:
    """What is wrong about a verdict's word; empty where nothing is.

    Args:
        harmed: of other pictures, those that lost what is lost most.
        left: of the concept's own pictures, those that still read as it.
    """
    if word == "harmful":
        return "" if harmed.percent > NOISE else "nothing is harmed"
    if harmed.percent > HARM:
        return "harm is not told"
    if not left.of:
        return ""
    if word == "strong" and left.percent > LEFT:
        return "the concept is left"
    return "the concept is gone" if word == "weak" and not left.count else ""


def outcome(
    name: str,
    edited: tuple[str, str],
    scenes: Sequence[dict[str, str]],
    readings: tuple[dict[str, list[str]], dict[str, list[str]]],
    report: EditReport,
) -> Outcome:
    """What reading a trial's pictures says; what did not read right before the edit does not count.

    Args:
        edited: the attribute and the value that was edited away; ("", ...) where no picture shows it.
        scenes: what each picture shows, attribute to value.
        readings: before and after, attribute to what each picture reads as.
    """
    (attribute, source), (before, after) = edited, readings
    right = {
        kind: [place for place, scene in enumerate(scenes) if before[kind][place] == scene[kind]]
        for kind in SHAPES.values
    }
    own = {place for place, scene in enumerate(scenes) if attribute and scene[attribute] == source}
    lost = {}
    for kind, places in right.items():
        others = [place for place in places if place not in own]
        lost[kind] = Share(sum(after[kind][place] != scenes[place][kind] for place in others), len(others))
    judged = own.intersection(right[attribute]) if attribute else ()
    left = Share(sum(after[attribute][place] == source for place in judged), len(judged))
    return Outcome(name, left, lost, report)


def table(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Markdown, a line for each edit."""
    yield "| " + " | ".join(_COLUMNS) + " |"
    yield "|" + "---|" * len(_COLUMNS)
    for one in outcomes:
        found = one.report.neighbours
        worst = found.worst[0][1] if found is not None else 0.0
        cells = (
            one.name,
            one.left.text() if one.left.of else "",
            one.harm.text(),
            *(f"{one.lost[kind].percent:.0f}" for kind in ("object", "color", "style")),
            "" if one.report.efficacy is None else f"{one.report.efficacy:.0%}",
            f"{one.report.drift:.1%}",
            "" if found is None else f"{found.lost} of {found.names}",
            f"{worst:.2f}",
            one.word,
            one.wrong(),
        )
        yield "| " + " | ".join(cells) + " |"


def tally(outcomes: Sequence[Outcome]) -> str:
    """How many verdicts are wrong, and how many would be if they did not look at neighbours."""
    blind = [replace(one, report=replace(one.report, neighbours=None)) for one in outcomes]
    wrong, without = (Share(sum(bool(one.wrong()) for one in some), len(some)) for some in (outcomes, blind))
    return f"{wrong.count} of {wrong.of} verdicts are wrong, {wrong.text()} %; without neighbours {without.text()} %"
