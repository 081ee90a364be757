"""The cell and the site with the largest average indirect effect, and how sure that is."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from ...families.heads import kind_of
from .judgement import judge
from .sign_flips import LEAST_PROMPTS
from .statistics import prompt_means, resampled_means
from .trace import PROBES, CausalTrace, TraceError

RESAMPLES = 1000


@dataclass(frozen=True)
class Location:
    """The strongest site of a trace.

    Attributes:
        site: its name.
        kind: its kind.
        layer: the first number in its name that stands for itself: the layer of a text encoder, the block of an image
            model; -1 for a pooled vector, which has none.
        column: the token or step window at which it is strongest.
        effect: its average indirect effect.
        recovery: that effect as a share of the mean total effect.
        confidence: share of bootstrap samples of the prompts in which it is the strongest site; NaN with one prompt.
        prompts: how many prompts there are.
        runner_up: the name of the next site.
        probe: what was done at the sites, one of :data:`~.trace.PROBES`.
    """

    site: str
    kind: str
    layer: int
    column: str
    effect: float
    recovery: float
    confidence: float
    prompts: int
    runner_up: str | None
    probe: str = PROBES[0]

    def text(self) -> str:
        """The finding in words."""
        if self.confidence != self.confidence:
            sure = "One prompt: no confidence can be given; trace more of them."
        else:
            few = ", too few to lean on" if self.prompts < LEAST_PROMPTS else ""
            sure = f"Strongest in {self.confidence:.0%} of the bootstrap samples of {self.prompts} prompts{few}."
        rival = f" Next: {self.runner_up}." if self.runner_up else ""
        whole = "the corruption took away" if self.probe == PROBES[0] else "the other text takes away everywhere"
        return (
            f"{self.site} at {self.column!r}: average indirect effect {self.effect:+.4f}, "
            f"{self.recovery:.0%} of what {whole}. {sure}{rival}"
        )


@dataclass(frozen=True)
class BestCell:
    """The cell with the largest average indirect effect.

    Attributes:
        site, column: its labels.
        effect: its average indirect effect, in units of the score.
        low, high: interval of the effect; NaN with one prompt only.
        first: share of bootstrap resamples in which it is the largest; NaN with one prompt only.
        beats_control: whether it brings back more than the control, all cells considered (see
            :func:`~.judgement.judge`).
    """

    site: str
    column: str
    effect: float
    low: float
    high: float
    first: float
    beats_control: bool


def layer_of(site: str) -> int | None:
    """The layer that a site of the text encoder belongs to; None for windows of sites and sites of an image model."""
    found = re.fullmatch(r"text\.(\d{1,4})\.\w+", site)
    return int(found.group(1)) if found else None


def locate(trace: CausalTrace, kind: str | None = "self_attn", *, seed: int = 0) -> Location:
    """The site whose average indirect effect, at its best column, is the largest.

    The bootstrap draws whole prompts: what belongs to one prompt is not independent.

    Raises:
        TraceError: the trace has no site of this kind, or no finished cell.
    """
    rows = [i for i, name in enumerate(trace.sites) if kind is None or kind_of(name) == kind]
    if not rows:
        kinds = sorted({kind_of(name) for name in trace.sites})
        raise TraceError(f"The trace has no site of kind {kind}; it has {', '.join(kinds)}. Choose one, or any.")
    effects = trace.indirect_effects()[:, :, :, rows]
    samples = prompt_means(effects)
    mean = samples.nanmean(0)
    if not mean.isfinite().any():
        raise TraceError("The trace holds no finished cell yet; let it run on.")
    strengths = mean.nan_to_num(-torch.inf).amax(1)
    order = strengths.argsort(descending=True).tolist()
    best = order[0]
    column = int(mean[best].nan_to_num(-torch.inf).argmax())
    name = trace.sites[rows[best]]
    total = float(trace.total_effects().nanmean())
    number = re.search(r"(?<=\.)\d+(?=\.)" if name.startswith("text.") else r"\d+", name)
    return Location(
        site=name,
        kind=kind_of(name),
        layer=int(number.group()) if number else -1 if name.endswith(".pooled") else 0,
        column=trace.columns[column],
        effect=float(mean[best, column]),
        recovery=float(mean[best, column]) / total if total else float("nan"),
        confidence=_confidence(samples, best, seed),
        prompts=len(samples),
        runner_up=trace.sites[rows[order[1]]] if len(order) > 1 else None,
        probe=trace.probe,
    )


def sites_found(trace: CausalTrace, name: str) -> tuple[str, ...]:
    """The single sites of an entry of :attr:`~.trace.CausalTrace.sites`: itself, or those of its window.

    Raises:
        TraceError: the trace's names and its window do not tell which sites lie between a window's ends.
    """
    if ".." not in name:
        return (name,)
    kind, size = name.rsplit(".", 1)[-1], trace.settings.get("window")
    windows = [_ends(one) for one in trace.sites if ".." in one and one.rsplit(".", 1)[-1] == kind]
    # Windows slide one by one, so that each site begins or ends one unless they are long.
    line = list(dict.fromkeys([first for first, _ in windows] + [last for _, last in windows]))
    first, last = _ends(name)
    found = tuple(line[line.index(first) : line.index(last) + 1])
    if len(found) != size:
        raise TraceError(f"Which sites lie in the window {name} cannot be told; trace with a smaller window.")
    return found


def _ends(window: str) -> tuple[str, str]:
    """The first and the last site of a window's name."""
    places, kind = window.rsplit(".", 1)
    first, last = places.split("..")
    return f"{first}.{kind}", f"{first.split('.', 1)[0]}.{last}.{kind}"


def best_cell(trace: CausalTrace, *, level: float = 0.95) -> BestCell:
    """The cell with the largest average indirect effect, its interval, and whether it beats the control.

    Raises:
        TraceError: nothing was measured yet.
    """
    effects = trace.average_indirect_effect()
    if not effects.isfinite().any():
        raise TraceError("The trace holds no finished cell yet; let it run on.")
    row, column = divmod(int(effects.nan_to_num(-torch.inf).argmax()), len(trace.columns))
    judgement = judge(trace, level=level)
    return BestCell(
        trace.sites[row],
        trace.columns[column],
        float(effects[row, column]),
        float(judgement.low[row, column]),
        float(judgement.high[row, column]),
        float(judgement.first[row, column]),
        bool(judgement.beats_control[row, column]),
    )


def _confidence(samples: torch.Tensor, best: int, seed: int) -> float:
    if len(samples) < 2:
        return float("nan")
    means = resampled_means(samples, resamples=RESAMPLES, seed=seed).nan_to_num(-torch.inf)
    return float((means.amax(2).argmax(1) == best).float().mean())
