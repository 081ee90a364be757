"""What a sweep costs beside its tracing: a shard's file, a worker's hand-over, reading all shards; and how it grows.

    make bench-sweeps

Scores are made up and nothing is painted: what is left is what ``sweeps/`` itself takes. The last table puts the
measured costs of one shard and of one prompt together for 10,000 prompts by 2,000 cells, on 1, 8 and 64 workers that
each need ``--run-seconds`` for a restored run. It is arithmetic, not a measurement.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..sweeps.plan import SweepPlan
from ..sweeps.run import run_sweep
from ..sweeps.scores import joined, sweep_scores
from ..sweeps.store import SweepFolder
from ..tracing.results.trace import CausalTrace
from .memory import Peak

SITES, COLUMNS, CONTROLS = 250, 8, 8
CELLS = SITES * COLUMNS


@dataclass(frozen=True)
class Made:
    """A tracer of made-up scores, which opens itself."""

    cells: bool = True
    device: str = "cpu"

    def __call__(self) -> Made:
        return self

    @property
    def identity(self) -> Mapping[str, str]:
        return {"model": "made up"}

    def trace(self, prompt: str, seeds: Sequence[int]) -> CausalTrace:
        """Normal scores; one cell brings the picture back."""
        sites = SITES if self.cells else 1
        runs = (1, len(seeds), 1)
        rng = torch.Generator().manual_seed(hash(prompt) % 2**31)
        restored = 0.1 * torch.randn(*runs, sites, COLUMNS, generator=rng)
        restored[..., 0, 0] += 1.0
        plain = prompt.replace("[", "").replace("]", "")
        return CausalTrace(
            component="text",
            sites=tuple(f"text.{site}.mlp" for site in range(sites)),
            columns=tuple(f"place {column}" for column in range(COLUMNS)),
            column_axis="token",
            prompts=(plain,),
            subjects=("van gogh",),
            seeds=tuple(seeds),
            draws=1,
            clean=torch.ones(runs[:2]),
            corrupted=torch.zeros(runs),
            restored=restored,
            control=0.1 * torch.randn(*runs, CONTROLS, generator=rng),
            score="made up",
        )


@dataclass(frozen=True)
class Costs:
    """Measured, in seconds and bytes, of one shard of :data:`CELLS` cells."""

    write: float
    check: float
    size: float
    hand_over: float


@dataclass(frozen=True)
class Growth:
    """What reading a sweep takes: seconds and MiB of a process of its own, beyond its start."""

    prompts: int
    seconds: float
    mib: float


def plan_of(prompts: int) -> SweepPlan:
    texts = tuple(f"a picture of thing {number} by [van gogh]" for number in range(prompts))
    return SweepPlan("made up", "made up", {}, Made().identity, texts, ((0,),))


@contextmanager
def new_folder(prompts: int) -> Iterator[SweepFolder]:
    with tempfile.TemporaryDirectory() as scratch:
        yield SweepFolder.make(Path(scratch), plan_of(prompts))


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(prompts: int, workers: int) -> Costs:
    """Every cost, on ``prompts`` shards."""
    with new_folder(prompts) as folder:
        shards, tracer = list(folder.plan.shards()), Made()
        traces = [tracer.trace(shard.prompt, shard.seeds) for shard in shards]

        def write_all() -> None:
            for shard, trace in zip(shards, traces, strict=True):
                folder.write(shard, trace, {})

        write = seconds(write_all) / prompts
        size = sum(folder.file(shard).stat().st_size for shard in shards) / prompts
        check = seconds(folder.sorted_out) / prompts
    return Costs(write, check, size, hand_over(prompts, workers, "process"))


def hand_over(prompts: int, workers: int, executor: str) -> float:
    """What an executor adds to a shard, in seconds: the time of a run of small shards, less that of starting the
    workers, and less what the same shards take in one process, shared evenly."""

    def run(number: int, name: str) -> float:
        with new_folder(number) as folder:
            options: dict[str, Any] = (
                {"init": {"include_dashboard": False, "num_cpus": workers}} if name == "ray" else {}
            )
            return seconds(lambda: run_sweep(folder, name, workers=workers, opener=Made(False), **options))

    few, many, alone = run(workers, executor), run(prompts, executor), run(prompts, "serial")
    return max(0.0, (many - few) / (prompts - workers) - alone / prompts / workers)


def reading(prompts: int) -> tuple[Growth, Growth]:
    """Statistics and joined trace of a sweep of so many prompts, each in a process of its own."""
    with new_folder(prompts) as folder:
        run_sweep(folder, opener=Made())
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
            one, two = (pool.submit(_read, str(folder.path), work).result() for work in ("statistics", "join"))
    return Growth(prompts, *one), Growth(prompts, *two)


def _read(path: str, work: str) -> tuple[float, float]:
    folder = SweepFolder.open(Path(path))
    with Peak() as peak:
        took = seconds(lambda: sweep_scores(folder) if work == "statistics" else joined(folder))
    return took, peak.mib


def forecast(costs: Costs, statistics: Sequence[Growth], prompts: int, run_seconds: float) -> None:
    """Print what the measured costs come to for a large sweep; reading grows as between the two largest measured."""
    shard = (CELLS + CONTROLS + 2) * run_seconds
    print(f"\nFor {prompts:,} prompts x {CELLS:,} cells, {run_seconds} s a run ({shard:,.0f} s a shard):\n")
    print("| workers | tracing | added by the sweep | share |\n|---|---|---|---|")
    for workers in (1, 8, 64):
        # The last round may leave workers idle.
        traced, added = (
            -(-prompts // workers) * shard,
            prompts * (costs.check + costs.write / workers + costs.hand_over),
        )
        print(f"| {workers} | {traced / 3600:,.1f} h | {added:,.0f} s | {added / traced:.3%} |")
    less, more = statistics[-2:]
    steps = (prompts - more.prompts) / (more.prompts - less.prompts)
    minutes = (more.seconds + steps * (more.seconds - less.seconds)) / 60
    gigabytes = (more.mib + steps * (more.mib - less.mib)) / 1024
    print(
        f"\nAll shards: {prompts * costs.size / 1e6:,.0f} MB. Status, or going on: {prompts * costs.check:,.0f} s. "
        f"Statistics: {minutes:.1f} min, {gigabytes:.1f} GiB."
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="sweeps", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--prompts", type=int, default=400, help="shards that costs are measured on (default: 400)")
    parser.add_argument("--workers", type=int, default=2, help="of the pool, and of Ray (default: 2)")
    parser.add_argument("--run-seconds", type=float, default=0.1, help="of a restored run on a worker (default: 0.1)")
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[250, 500, 1000], help="prompts that are read, two or more"
    )
    parser.add_argument("--ray", action="store_true", help="measure Ray's hand-over too")
    options = parser.parse_args(arguments)
    costs = measure(options.prompts, options.workers)
    ray = f"{1e3 * hand_over(options.prompts, options.workers, 'ray'):.1f}" if options.ray else "-"
    print(f"A shard of {CELLS:,} cells, in milliseconds (means of {options.prompts}):\n")
    print("| write | check | hand-over: pool | Ray | file |\n|---|---|---|---|---|")
    times = f"| {1e3 * costs.write:.1f} | {1e3 * costs.check:.1f} | {1e3 * costs.hand_over:.1f} | {ray} |"
    print(f"{times} {costs.size:,.0f} bytes |")
    print("\n| prompts | statistics | peak memory | joined trace | peak memory |\n|---|---|---|---|---|")
    found = []
    for size in options.sizes:
        one, two = reading(size)
        found.append(one)
        print(
            f"| {size:,} | {one.seconds:.1f} s | {one.mib:.0f} MiB | {two.seconds:.1f} s | {two.mib:.0f} MiB |",
            flush=True,
        )
    forecast(costs, found, 10_000, options.run_seconds)


if __name__ == "__main__":
    main()
