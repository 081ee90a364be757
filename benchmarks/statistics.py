"""What the statistics of a trace promise, simulated: false alarms, planted effects found, coverage of intervals.

    make bench-statistics

Every trace is made up: cells and controls of one population of effects, without an effect unless one is planted. Each
line of the first two tables stands for one population:

* equal: normal, all cells alike;
* skewed: exponential;
* heavy tails: Student's t with two degrees of freedom;
* unequal spread: normal, the cells' standard deviations drawn from a log-normal distribution (sigma 1);
* skewed, unequal spread: exponential with such standard deviations, which the test does not allow for.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from ..tracing.results.sign_flips import cell_wise_p, judge_cells, paired_differences, q_values
from ..tracing.results.statistics import first_shares, mean_interval

LEVEL = 0.95
Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Population:
    """Effects without an effect: what single ones are drawn from, mean 0, and how cells differ in spread."""

    draw: Draw
    sigma: float = 0.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """The size of a trace; ``shared`` is the share of variance that all cells and controls of a run have in common,
    ``within`` the share that the runs of a prompt have in common."""

    prompts: int
    seeds: int = 1
    draws: int = 1
    cells: int = 60
    controls: int = 8
    shared: float = 0.0
    within: float = 0.0

    def text(self) -> str:
        runs = self.seeds * self.draws
        more = [
            f"{runs} runs each" if runs > 1 else "",
            "correlated cells" if self.shared else "",
            f"{self.cells} cells, {self.controls} controls" if self.cells != Shape.cells else "",
        ]
        return ", ".join([f"{self.prompts} prompts", *filter(None, more)])


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_normal(shape)


def _skewed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.exponential(size=shape) - 1


def _heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.standard_t(2, size=shape)


POPULATIONS = {
    "equal": Population(_normal),
    "skewed": Population(_skewed),
    "heavy tails": Population(_heavy),
    "unequal spread": Population(_normal, 1.0),
    "skewed, unequal spread": Population(_skewed, 1.0),
}
SHAPES = (
    Shape(6),
    Shape(10),
    Shape(40),
    Shape(40, shared=0.5),
    Shape(10, seeds=2, draws=2, within=0.5),
    Shape(40, cells=12, controls=2),
)


def made_up(population: Population, shape: Shape, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Effects (P, S, D, L, 1) and controls (P, S, D, C) of a trace without effect.

    Controls are restorations at cells drawn once, as in a sweep.
    """
    runs = (shape.prompts, shape.seeds, shape.draws)
    spread = np.exp(population.sigma * rng.standard_normal(shape.cells))
    places = rng.integers(shape.cells, size=(shape.draws, shape.controls))
    own = 1 - shape.shared - shape.within
    both = np.sqrt(shape.shared) * population.draw(rng, (*runs, 1))
    parts = []
    for count, draws in ((shape.cells, 1), (shape.controls, shape.draws)):
        alone = np.sqrt(own) * population.draw(rng, (*runs, count))
        of_prompt = np.sqrt(shape.within) * population.draw(rng, (shape.prompts, 1, draws, count))
        parts.append(alone + of_prompt + both)
    return (parts[0] * spread)[..., None], parts[1] * spread[places]


def _judged(effects: np.ndarray, controls: np.ndarray) -> torch.Tensor:
    total = torch.ones(controls.shape[:3])
    return judge_cells(torch.from_numpy(effects), torch.from_numpy(controls), total, level=LEVEL, smallest=0)


def false_alarms(population: Population, shape: Shape, traces: int) -> float:
    """Share of traces without effect in which any cell is claimed to have one."""
    rng = np.random.default_rng(0)
    alarms = 0
    for _ in range(traces):
        verdict = _judged(*made_up(population, shape, rng))
        alarms += bool((verdict.nan_to_num() != 0).any())
    return alarms / traces


def found(population: Population, shape: Shape, size: float, traces: int) -> float:
    """Share of planted effects that are claimed: three cells, effects between half and one and a half of ``size``."""
    rng = np.random.default_rng(1)
    claimed = 0.0
    for _ in range(traces):
        effects, controls = made_up(population, shape, rng)
        effects[..., :3, 0] += size * rng.uniform(0.5, 1.5, size=(shape.prompts, 1, 1, 3))
        verdict = _judged(effects, controls)
        claimed += float((verdict[:3] == 1).double().mean())
    return claimed / traces


def discoveries(population: Population, shape: Shape, size: float, traces: int) -> tuple[float, float]:
    """Of cells claimed by q <= 1 - :data:`LEVEL`: the mean share of a trace's claims that are false, 0 where it has
    none; and the share of three planted effects that are claimed, as in :func:`found`. ``size`` 0: none is planted."""
    rng = np.random.default_rng(3)
    false = claimed = 0.0
    for _ in range(traces):
        effects, controls = made_up(population, shape, rng)
        planted = 3 if size else 0
        effects[..., :planted, 0] += size * rng.uniform(0.5, 1.5, size=(shape.prompts, 1, 1, planted))
        differences = paired_differences(torch.from_numpy(effects), torch.from_numpy(controls))
        claims = q_values(cell_wise_p(differences)).flatten() <= 1 - LEVEL
        false += float(claims[planted:].sum() / max(1, int(claims.sum())))
        claimed += float(claims[:planted].double().mean()) if planted else 0.0
    return false / traces, claimed / traces


def coverage(population: Population, prompts: int, intervals: int) -> tuple[float, float]:
    """Share of intervals that hold the true mean, and their median width in standard errors of values of spread 1."""
    rng = np.random.default_rng(2)
    values = torch.from_numpy(population.draw(rng, (prompts, intervals)))
    low, high = mean_interval(values, level=LEVEL)
    return float(((low <= 0) & (high >= 0)).double().mean()), float((high - low).median()) * prompts**0.5


def stability(shape: Shape, size: float, traces: int) -> list[float]:
    """Of equal cells, of which the first has an effect of ``size``: how often the largest cell is first in resamples,
    as its 5 %, 50 % and 95 % quantiles over traces."""
    rng = np.random.default_rng(4)
    shares = []
    for _ in range(traces):
        effects, _ = made_up(POPULATIONS["equal"], shape, rng)
        effects[..., 0, 0] += size
        found = torch.from_numpy(effects)
        shares.append(first_shares(found, resamples=500).flatten()[int(found.mean((0, 1, 2)).argmax())])
    return torch.stack(shares).quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--traces", type=int, default=1000, help="traces for each number (default: %(default)s)")
    parser.add_argument("--intervals", type=int, default=20_000, help="intervals (default: %(default)s)")
    options = parser.parse_args(arguments)
    sizes, counts = (0.5, 1.0, 2.0, 4.0), (2, 3, 5, 10, 40)

    print(f"Traces without effect in which a cell is claimed to have one; {options.traces} traces each:\n")
    rows = [
        [name, *(f"{false_alarms(population, shape, options.traces):.1%}" for shape in SHAPES)]
        for name, population in POPULATIONS.items()
    ]
    print(_table(["cells", *(shape.text() for shape in SHAPES)], rows), flush=True)

    few = max(1, options.traces // 5)
    print(f"\nPlanted effects found, of single-run standard deviations; {few} traces of 60 cells each:\n")
    rows = [
        [name, *(f"{found(POPULATIONS[name], Shape(count), size, few):.0%}" for count in (6, 10, 40) for size in sizes)]
        for name in ("equal", "skewed", "heavy tails", "unequal spread")
    ]
    print(
        _table(["cells", *(f"{count} prompts, {size:g}" for count in (6, 10, 40) for size in sizes)], rows), flush=True
    )

    print(f"\nFalse among cells of q <= 5 %, and planted effects found so; {few} traces of 60 cells each:\n")
    rows = []
    for name, population in POPULATIONS.items():
        pairs = [discoveries(population, Shape(count), size, few) for count in (10, 40) for size in (0.0, 1.0, 2.0)]
        rows.append([name, *(f"{false:.1%}; {hit:.0%}" for false, hit in pairs)])
    heads = [f"{count} prompts, {size:g}" for count in (10, 40) for size in (0.0, 1.0, 2.0)]
    print(_table(["cells", *heads], rows), flush=True)

    print(f"\nShare of resamples in which the largest cell is first; {few} traces of equal cells each:\n")
    shapes = [Shape(count, cells=cells) for cells in (12, 60) for count in (6, 10, 40)]
    rows = []
    for size in (0.0, 1.0, 2.0, 4.0):
        quantiles = [stability(shape, size, few) for shape in shapes]
        rows.append([f"{size:g}", *(f"{middle:.0%} ({low:.0%}-{high:.0%})" for low, middle, high in quantiles)])
    print(_table(["effect", *(f"{shape.cells} cells, {shape.prompts} prompts" for shape in shapes)], rows), flush=True)

    print(f"\nCoverage of the 95 % interval; {options.intervals} each:\n")
    rows = []
    for name in ("equal", "skewed", "heavy tails"):
        cells = [coverage(POPULATIONS[name], count, options.intervals) for count in counts]
        rows.append([name, *(f"{share:.1%}" for share, _ in cells)])
        if name == "equal":
            widths = ["equal: median width in standard errors", *(f"{width:.1f}" for _, width in cells)]
    rows.append(widths)
    print(_table(["values", *(f"{count} prompts" for count in counts)], rows), flush=True)


if __name__ == "__main__":
    main()
