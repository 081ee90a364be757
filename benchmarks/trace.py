"""Pictures per second of plain sampling, of lockstep tracing, and of the published one-site-at-a-time scheme.

    make bench-trace

The published scheme runs a batch of clean, corrupted and restored for each site. Lockstep runs the clean row once for
as many restored rows as a batch holds, and the corrupted row once in all. All three use Shapes' UNet, the same sampler
and the same hooks, and are interleaved in one run; medians are printed. Only restored pictures count as the tracers'
output.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch

from ..demo_model.pipeline import load_pipeline
from ..demo_model.traced import TracedSampler
from ..families.sites import select
from ..tracing.runs.interventions import Patch


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=12, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats (default: %(default)s)")
    options = parser.parse_args(arguments)
    pipeline = load_pipeline()
    sample = TracedSampler(pipeline, steps=options.steps)
    kinds = [site.name for site in select(sample.sites.values(), kinds=["self_attn"])]
    rows, restored = options.rows, min(options.rows - 1, len(kinds))
    clean, corrupted = pipeline.encode(["a red circle, in the style of van gogh", "a red circle, in the style of"])

    def plain() -> int:
        sample(clean.expand(rows, -1, -1), 0, [])
        return rows

    def lockstep() -> int:
        states = torch.stack([clean, *[corrupted] * restored])
        patches = [Patch(name, 1 + number, 0) for number, name in enumerate(kinds[:restored])]
        sample(states, 0, patches)
        return restored

    def published() -> int:
        states = torch.stack([clean, corrupted, corrupted])
        for name in kinds[:2]:
            sample(states, 0, [Patch(name, 2, 0)])
        return 2

    runs: dict[str, Callable[[], int]] = {
        "plain sampling": plain,
        "lockstep": lockstep,
        "one site at a time": published,
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(options.repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            count = run()
            if number:
                rates[name].append(count / (time.perf_counter() - started))
    print(
        f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{rows} rows, {options.steps} steps"
    )
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:20} {value:6.2f} pictures a second, {value / medians['one site at a time']:5.2f} x published")


if __name__ == "__main__":
    main()
