"""Time an edit of SDXL's doors, at SDXL's sizes with random weights, by stage, beside UCE's procedure for each matrix.

    make bench-doors

Both real-size CLIP towers and all 140 keys and values of the UNet's cross-attentions, in fp32. UCE's procedure
(Gandikota et al., arXiv 2308.14761) computes

    W_new = (sum V c^T + lam W) (sum c c^T + lam I)^-1

for one matrix after the other with a dense inverse each, in fp32, from states that the whole encoders give for all 77
positions of each caption. It gets the same pairs, the same preserved prompts and the same lambda, and its sums as one
product, which released code adds up state by state. Both are compared with its solution in fp64. The same for a guarded
edit, and, ours alone, for a list of concepts at once. Then the doors of Flux.1 (4096 wide) and of Flux.2 (15360) are
solved with the states given, beside a dense or dual solve in fp64. Memory is what the program takes beyond all that it
held before, of which it may use again what was freed.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..families.doors import Door, family_named
from ..quickfix import DOORS, ConceptEdit, EditSettings, LowRank, PromptStates, TextTower
from ..quickfix.concepts.pairs import POSITIONS
from ..quickfix.doors import pooled_map, up_factor
from ..quickfix.encoder.prompt_states import READINGS, Stream
from ..quickfix.encoder.states import StateTower
from ..quickfix.guard import build_guard
from ..quickfix.measure.stopwatch import Stopwatch
from ..quickfix.solver.closed_form import solve_residuals
from ..quickfix.solver.preserved import PreservedRows
from ..quickfix.stream import gather_pairs, tokenize_pairs
from ..text.prompts import PromptTokenizer
from ..text.vocabulary import clip_tokenizer
from .edit import VAN_GOGH, styles
from .memory import Peak

# Width, layers, activation and padding of SDXL's two encoders, and the width of its pooled vector.
TOWERS = ((768, 12, "quick_gelu", 49407), (1280, 32, "gelu", 0))
# Transformer blocks at each place of SDXL's UNet, and the width of the picture's states there.
BLOCKS = (
    *((f"input_blocks.{number}.1", 2, 640) for number in (4, 5)),
    *((f"input_blocks.{number}.1", 10, 1280) for number in (7, 8)),
    ("middle_block.1", 10, 1280),
    *((f"output_blocks.{number}.1", 10, 1280) for number in (0, 1, 2)),
    *((f"output_blocks.{number}.1", 2, 640) for number in (3, 4, 5)),
)
PLAIN = dataclasses.replace(DOORS, preserve=())
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1)
# Doors that read wide states: the family, the width of the states and of the door's output, pairs, and numbers of
# preserved states, the last of which a guard's 30 prompts have. Flux.1 pairs whole captions with their padding, Flux.2
# the last subject tokens. As in a guard, fewer preserved states than they are wide stay rows.
WIDE = (("Flux.1", 4096, 3072, 4 * 256, (0, 2000)), ("Flux.2", 15360, 6144, 4, (0, 2000)))
# Rows of a wide door's update that are compared with fp64; lambda, and how much what is preserved counts.
COMPARED, LAM, BETA = 64, 1e-3, 3.0


def shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of what SDXL's UNet is known by, its cross-attentions and the map of its pooled vector."""
    found: dict[str, tuple[int, ...]] = {"input_blocks.0.0.weight": (320, 4, 3, 3)}
    width = sum(tower[0] for tower in TOWERS)
    for place, depth, inner in BLOCKS:
        for block in range(depth):
            for part in "kv":
                found[f"{place}.transformer_blocks.{block}.attn2.to_{part}.weight"] = (inner, width)
    found["label_emb.0.0.weight"] = (1280, TOWERS[-1][0] + 6 * 256)
    return found


def random_tower(width: int, layers: int, activation: str, seed: int) -> TextTower:
    """A CLIP text tower with random weights."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * 0.02

    weights = {
        "embeddings.token_embedding.weight": random(49408, width),
        "embeddings.position_embedding.weight": random(77, width),
        "final_layer_norm.weight": torch.ones(width),
        "final_layer_norm.bias": torch.zeros(width),
    }
    linear = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for layer in range(layers):
        for name, shape in linear.items():
            weights[f"encoder.layers.{layer}.{name}.weight"] = random(*shape)
            weights[f"encoder.layers.{layer}.{name}.bias"] = torch.zeros(shape[0])
        for norm in ("layer_norm1", "layer_norm2"):
            weights[f"encoder.layers.{layer}.{norm}.weight"] = torch.ones(width)
            weights[f"encoder.layers.{layer}.{norm}.bias"] = torch.zeros(width)
    return TextTower.from_weights(weights, heads=width // 64, activation=activation)


@dataclass(frozen=True)
class Encoded:
    """The states of some concepts' pairs and of what is preserved, as rows of keys."""

    keys: torch.Tensor
    wanted: torch.Tensor
    kept: torch.Tensor | None

    def map(self, lam: float, beta: float, precision: torch.dtype) -> torch.Tensor:
        """X = (C* - C) C^T (lam I + C C^T + beta P P^T)^-1, densely."""
        keys, wanted = self.keys.to(precision), self.wanted.to(precision)
        inner = keys.T @ keys + lam * torch.eye(keys.shape[1], dtype=precision)
        if self.kept is not None:
            inner += beta * (self.kept.T @ self.kept).to(precision)
        return torch.linalg.solve(inner, keys.T @ (wanted - keys)).T

    def uce(self, weight: torch.Tensor, lam: float, beta: float) -> torch.Tensor:
        """The new weight, by UCE's equation, in fp32."""
        left = lam * weight + (self.wanted @ weight.T).T @ self.keys
        right = lam * torch.eye(weight.shape[1]) + self.keys.T @ self.keys
        if self.kept is not None:
            left += beta * (self.kept @ weight.T).T @ self.kept
            right += beta * self.kept.T @ self.kept
        return left @ torch.linalg.inv(right)


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    states: PromptStates
    weights: dict[str, torch.Tensor]
    repeats: int
    clock: Callable[[], float]
    matrices: int

    @property
    def tokenizer(self) -> PromptTokenizer:
        return self.states.tokenizer

    def doors(self) -> tuple[Door, ...]:
        """All keys and values."""
        return family_named("sdxl").select(shapes(), kinds=("key", "value"))

    def read(self, door: Door) -> torch.Tensor:
        return self.weights[door.weight]

    def edit(
        self, tower: StateTower, concepts: Sequence[ConceptEdit], settings: EditSettings, watch: Stopwatch
    ) -> tuple[LowRank, int]:
        """The map of the states that :func:`~.quickfix.edit.compute_edit` finds, without its report, and the number of
        pairs."""
        assert settings.lam is not None
        with watch.stage("keys"):
            guard = build_guard(tower, self.tokenizer, concepts, settings)
        pairs = gather_pairs(tower, self.tokenizer, concepts, settings, watch)
        with watch.stage("solve"):
            return tower.in_weight(pairs.solve(settings.lam, guard)), len(pairs)

    def timed(self, concepts: Sequence[ConceptEdit], settings: EditSettings) -> tuple[int, int, dict[str, float]]:
        """An edit of all keys and values and the map of the pooled vector: pairs, rank, and its stages in seconds."""
        states, watch, doors = self.states.remembering(), Stopwatch(self.clock), self.doors()
        with watch.stage("sizes of states"):
            tower = states.tower()
        update, pairs = self.edit(tower, concepts, settings, watch)
        with watch.stage("factors"):
            for door in doors:
                up_factor(door, self.read(door), update)
        with watch.stage("pooled"):
            pooled_map(states.pooled, self.tokenizer, concepts, settings)
        return pairs, update.rank, {name: value / 1000 for name, value in watch.milliseconds()}

    @torch.no_grad()
    def whole_passes(self, concepts: Sequence[ConceptEdit], settings: EditSettings, tower: StateTower) -> Encoded:
        """The same pairs and preserved prompts, all captions at all 77 positions through whole encoders."""
        pairs = tokenize_pairs(self.tokenizer, concepts, settings.positions)
        kept = self.tokenizer.tokenize_all(list(settings.preserve))
        ids = torch.tensor([prompt.ids for prompt in (*pairs.captions, *kept)])
        behind = (ids == self.tokenizer.eos).cumsum(1) - (ids == self.tokenizer.eos).int() > 0
        found = []
        for stream in self.states.streams:
            rows = ids.masked_fill(behind, stream.pad_token)
            model = dataclasses.replace(stream.tower, num_layers=stream.depth[0])
            parts = [model.hidden_states(part, normed=False) for part in rows.split(8)]
            found.append(torch.cat(parts))
        states = torch.cat(found, dim=-1) * tower.scale
        source, target = (states[where[:, 0], where[:, 1]] for where in (pairs.source, pairs.target))
        # Each distinct state once, as the guard has it.
        preserved = states[len(pairs.captions) :].flatten(0, 1)
        distinct = _distinct([prompt.ids for prompt in kept])
        return Encoded(source, target, preserved[distinct] if len(kept) else None)

    def uce(self, encoded: Encoded, lam: float, beta: float, scale: torch.Tensor) -> float:
        """Seconds of UCE's procedure for all matrices; each new weight is thrown away.

        Of fewer matrices, evenly chosen, the time of each is counted for as many as it stands for.
        """
        doors = self.doors()
        chosen = doors[:: max(1, len(doors) // self.matrices)]
        started = self.clock()
        for door in chosen:
            encoded.uce(self.read(door) / scale, lam, beta)
        return (self.clock() - started) * len(doors) / len(chosen)

    def compare(
        self, concepts: Sequence[ConceptEdit], settings: EditSettings, name: str, *, alone: bool = False
    ) -> Iterator[str]:
        """One list of concepts by stage, ours beside UCE's, in one run; or ours alone."""
        assert settings.lam is not None
        with Peak() as ours:
            runs = [self.timed(concepts, settings) for _ in range(self.repeats)]
        pairs, rank, times = min(runs, key=lambda run: sum(run[2].values()))
        solve, whole = times["solve"] + times["factors"], sum(times.values())
        yield f"{name}: {pairs} pairs, rank {rank}; best of {self.repeats}, seconds"
        yield "  ours: " + ", ".join(f"{stage} {value:.3f}" for stage, value in times.items())
        yield f"  ours: solve and factors {solve:.3f}, text to factors {whole:.2f}, memory {ours.text()} MiB"
        if alone:
            return
        tower = self.states.remembering().tower()
        with Peak() as theirs:
            started = self.clock()
            encoded = self.whole_passes(concepts, settings, tower)
            encoding = self.clock() - started
            solving = self.uce(encoded, settings.lam, settings.preserve_weight, tower.scale)
        yield f"  UCE: encode {encoding:.2f}, solve {solving:.1f}, memory {theirs.text()} MiB"
        yield f"  ratio of solve and factors {solving / solve:.0f}, of all {(encoding + solving) / whole:.1f}"
        yield from self.errors(concepts, settings, encoded, tower)

    def errors(
        self, concepts: Sequence[ConceptEdit], settings: EditSettings, encoded: Encoded, tower: StateTower
    ) -> Iterator[str]:
        """Relative error of the first value's update to fp64, over lambda."""
        door = next(door for door in self.doors() if door.kind == "value")
        weight, beta = self.read(door), settings.preserve_weight
        yield f"  {'lambda':>10} {'ours':>10} {'UCE fp32':>10}   error to fp64"
        for lam in LAMBDAS:
            exact = (weight / tower.scale).double() @ encoded.map(lam, beta, torch.float64) * tower.scale
            chosen = dataclasses.replace(settings, lam=lam)
            update, _ = self.edit(tower, concepts, chosen, Stopwatch())
            ours = up_factor(door, weight, update) @ update.down
            plain = encoded.uce(weight / tower.scale, lam, beta) * tower.scale - weight
            off = [float((x.double() - exact).norm() / exact.norm()) for x in (ours, plain)]
            yield f"  {lam:10g} {off[0]:10.1e} {off[1]:10.1e}"


def _distinct(rows: Sequence[Sequence[int]]) -> list[int]:
    """The places (row by row) of each distinct beginning."""
    seen: dict[tuple[int, ...], int] = {}
    for number, row in enumerate(rows):
        for place in range(len(row)):
            seen.setdefault(tuple(row[: place + 1]), number * len(row) + place)
    return list(seen.values())


def wide_door(
    clock: Callable[[], float], name: str, width: int, height: int, pairs: int, preserved: Sequence[int]
) -> Iterator[str]:
    """A door of a joint attention, with its states given: random ones of the same sizes."""
    generator = torch.Generator().manual_seed(1)
    # States of one caption are alike: a few directions and a rest.
    common = torch.randn(64, width, generator=generator)
    rows = [
        torch.randn(n, 64, generator=generator) @ common / 8 + torch.randn(n, width, generator=generator)
        for n in (pairs, pairs, max(preserved))
    ]
    keys, wanted, kept = (row / width**0.5 for row in rows)
    weight = torch.randn(height, width, generator=generator) * 0.02
    yield f"{name}: {height} x {width}, {pairs} pairs"
    for count in preserved:
        with Peak() as peak:
            started = clock()
            preserve = PreservedRows.of(kept[:count], BETA) if count else None
            update = solve_residuals(keys, wanted - keys, lam=LAM, kept=preserve)
            solved = clock()
            up = weight @ update.up
            done = clock()
        error = wide_error(weight[:COMPARED], keys, wanted - keys, kept[:count], LowRank(up[:COMPARED], update.down))
        yield (
            f"  {count} preserved: solve {solved - started:.2f} s, factors {done - solved:.2f} s, rank {update.rank}, "
            f"memory {peak.text()} MiB, error to fp64 {error:.1e}; one {width} x {width} matrix in fp64 has "
            f"{width * width / 2**17:.0f} MiB"
        )


def wide_error(
    weight: torch.Tensor, keys: torch.Tensor, residuals: torch.Tensor, kept: torch.Tensor, found: LowRank
) -> float:
    """Relative error of some rows of a door's update, to those of one solve in fp64 by LU factors.

    With E the keys and the preserved states, the latter times the root of their weight, and R the residuals, zero for
    what is preserved, the update of a weight W is W R^T (lam I + E E^T)^-1 E.
    """
    every = torch.cat((keys.double(), kept.double() * BETA**0.5))
    inner = every @ every.T
    inner.diagonal().add_(LAM)
    wanted = torch.cat((residuals.double() @ weight.double().T, every.new_zeros(len(kept), len(weight))))
    exact = torch.linalg.solve(inner, wanted).T @ every
    return float((found.up.double() @ found.down.double() - exact).norm() / exact.norm())


def sdxl(repeats: int, clock: Callable[[], float], matrices: int) -> Bench:
    """The text encoders and maps of SDXL's size."""
    tokenizer = PromptTokenizer(clip_tokenizer(), pad_token=49407)
    streams = tuple(
        Stream(random_tower(width, layers, activation, seed), pad, reading)
        for seed, ((width, layers, activation, pad), reading) in enumerate(zip(TOWERS, READINGS["sdxl"], strict=True))
    )
    generator = torch.Generator().manual_seed(9)
    weights = {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in shapes().items()}
    projection = torch.randn(TOWERS[-1][0], TOWERS[-1][0], generator=generator) * 0.02
    return Bench(PromptStates(streams, tokenizer, "sdxl", lambda: projection), weights, repeats, clock, matrices)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="bench-doors", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=("wall", "processor"), default="wall", help="processor: of all threads, on a busy machine"
    )
    parser.add_argument("--matrices", type=int, default=140, help="how many UCE's procedure is timed on")
    parser.add_argument("--beside", action="store_true", help="UCE's procedure for the list, too (an hour)")
    parser.add_argument("--concepts", type=int, default=100, help="the length of the list")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("one", "guarded", "later", "many", "wide"),
        default=["one", "guarded", "many", "wide"],
    )
    options: Any = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    clock = {"processor": time.process_time, "wall": time.perf_counter}[options.clock]
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {options.threads} threads, {options.clock} time, torch {torch.__version__}")
    if {"one", "guarded", "later", "many"} & set(options.parts):
        bench = sdxl(options.repeats, clock, options.matrices)
        doors = bench.doors()
        print(f"SDXL: {len(doors)} keys and values, random weights in fp32; lambda {DOORS.lam:g}, last subject token")
        print(f"UCE's procedure timed on {min(options.matrices, len(doors))} of them\n", flush=True)
        many = styles(options.concepts)
        work = {
            "one": ([VAN_GOGH], PLAIN, '"van gogh" -> "painting", nothing preserved'),
            "guarded": ([VAN_GOGH], DOORS, '"van gogh" -> "painting", guarded'),
            "later": ([VAN_GOGH], dataclasses.replace(PLAIN, positions=POSITIONS[2]), "the same, later tokens too"),
            "many": (many, PLAIN, f"{len(many)} concepts, nothing preserved"),
        }
        for part in options.parts:
            if part in work:
                for line in bench.compare(*work[part], alone=part == "many" and not options.beside):
                    print(line, flush=True)
                print(flush=True)
        del bench
    if "wide" in options.parts:
        for case in WIDE:
            print(*wide_door(clock, *case), "", sep="\n", flush=True)


if __name__ == "__main__":
    main()
