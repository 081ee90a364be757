"""Time edits on a text encoder of Stable Diffusion 1.x's size (random weights), by stage, beside the textbook way.

    make bench

The textbook way encodes every caption with the whole encoder and solves (lambda W0 + V K^T)(lambda I + K K^T)^-1
densely in fp32. It runs in turn with ours, and both are compared with its solution in fp64, over lambda. Longer lists
are timed by stage, beside the floor that their matrix products set; and a ledger's changes beside a new edit.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import save

from ..quickfix import GUARDED, PAPER, ConceptEdit, Ledger, TextTower, WeightEdit, compute_edit
from ..quickfix.solver.closed_form import symmetric_product
from ..quickfix.stream import CONCEPTS, tokenize_pairs
from ..text.prompts import PromptTokenizer
from ..text.vocabulary import clip_tokenizer

VAN_GOGH = ConceptEdit("van gogh", "painting")
LAMBDAS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
COUNTS, MANY = (1, 10, 100, 1000), 10_000
# Concepts of the ledger that is timed.
LEDGER = 20
COLUMNS = (
    "concepts",
    "pairs",
    "tokenize",
    "keys",
    "solve",
    "text to delta",
    "report",
    "CPU",
    "GFLOP",
    "floor",
    "memory",
    "file",
)
LEGEND = """Milliseconds by stage. Text to delta is their sum without the report; CPU is that of all threads, with the
report; the floor is the matrix products alone; memory is the peak so far, with the model, in MiB; the file in KiB.
"""
_SYLLABLES = ["ba", "do", "fi", "ga", "ke", "lu", "mo", "ni", "pa", "re", "so", "tu", "ve", "wi", "ya", "zo"]


def clip_l() -> torch.nn.Module:
    """A CLIP-L text model with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            bos_token_id=49406,
            eos_token_id=49407,
        )
    ).eval()


def styles(count: int) -> list[ConceptEdit]:
    """So many style edits, each with four templates and a made-up name of two words."""
    names = (" ".join(map("".join, (word[:2], word[2:]))) for word in itertools.product(_SYLLABLES, repeat=4))
    rest = (ConceptEdit(name, "painting") for name in names)
    return [VAN_GOGH, *itertools.islice(rest, count - 1)]


@dataclass(frozen=True)
class Textbook:
    """Keys and values of some concepts by whole encoder passes, and the dense solve."""

    keys: torch.Tensor
    wanted: torch.Tensor
    weight: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, model: torch.nn.Module, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit]) -> Textbook:
        pairs = tokenize_pairs(tokenizer, concepts, PAPER.positions)
        seen: list[torch.Tensor] = []
        inner: Any = getattr(model, "text_model", model)
        projection = inner.encoder.layers[0].self_attn.out_proj
        handle = projection.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        try:
            for row in pairs.ids:
                model(row[None])
        finally:
            handle.remove()
        inputs = torch.cat(seen)
        keys, wanted = (inputs[where[:, 0], where[:, 1]] for where in (pairs.source, pairs.target))
        return cls(keys, wanted, projection.weight.detach())

    def solve(self, lam: float, precision: torch.dtype) -> torch.Tensor:
        """The update W* - W0."""
        keys, wanted, weight = (part.to(precision) for part in (self.keys, self.wanted, self.weight))
        left = lam * weight + (wanted @ weight.T).T @ keys
        right = lam * torch.eye(weight.shape[1], dtype=precision) + keys.T @ keys
        return left @ torch.linalg.inv(right) - weight


@dataclass(frozen=True)
class Bench:
    """What all measurements share."""

    model: torch.nn.Module
    tower: TextTower
    tokenizer: PromptTokenizer
    repeats: int

    def beside_the_textbook(self) -> Iterator[str]:
        """One concept, from text to delta, ours and the textbook's in turn."""
        edits, dense = [], []
        for _ in range(self.repeats + 1):
            edits.append(compute_edit(self.tower, self.tokenizer, [VAN_GOGH], PAPER))
            dense.append(seconds(self.textbook))
        ours, theirs = sum(stages(edits[1:]).values()), 1000 * statistics.median(dense[1:])
        yield f'"van gogh" -> "painting", {edits[0].report.pairs} pairs, medians of {self.repeats}, milliseconds'
        yield f"ours {ours:.1f}   textbook {theirs:.1f}   ratio {theirs / ours:.1f}"

    def textbook(self) -> torch.Tensor:
        """One concept, from text to delta, the textbook's way."""
        return Textbook.of(self.model, self.tokenizer, [VAN_GOGH]).solve(0.01, torch.float32)

    def errors(self, count: int) -> Iterator[str]:
        """Relative error to fp64 over lambda."""
        concepts = styles(count)
        book = Textbook.of(self.model, self.tokenizer, concepts)
        yield f"error to fp64, {count} concept{'s' * (count > 1)}, {len(book.keys)} pairs"
        yield f"{'lambda':>10} {'ours':>10} {'textbook fp32':>14}"
        for lam in LAMBDAS:
            exact = book.solve(lam, torch.float64)
            ours = compute_edit(self.tower, self.tokenizer, concepts, replace(PAPER, lam=lam)).delta()
            plain = book.solve(lam, torch.float32)
            ours_off, plain_off = (float((x.double() - exact).norm() / exact.norm()) for x in (ours, plain))
            yield f"{lam:10g} {ours_off:10.1e} {plain_off:14.1e}"

    def list_of(self, count: int) -> str:
        """One row of the table of long lists."""
        concepts, repeats = styles(count), max(1, min(self.repeats, 300 // count))
        started = time.process_time()
        edits = [compute_edit(self.tower, self.tokenizer, concepts, PAPER) for _ in range(repeats)]
        processor = (time.process_time() - started) / repeats
        spent, pairs = stages(edits), edits[0].report.pairs
        report = statistics.median(dict(edit.report.milliseconds)["report"] for edit in edits)
        floor, flops = self.floor(pairs)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        cells = (
            count,
            pairs,
            *(f"{value:.0f}" for value in spent.values()),
            f"{sum(spent.values()):.0f}",
            f"{report:.0f}",
            f"{1000 * processor:.0f}",
            f"{flops / 1e9:.0f}",
            f"{1000 * floor:.0f}",
            f"{memory:.0f}",
            f"{len(save(edits[0].lora())) / 2**10:.0f}",
        )
        return "| " + " | ".join(map(str, cells)) + " |"

    def ledger(self) -> Iterator[str]:
        """Dropping a concept from a ledger and solving again, beside computing the edit of the rest anew."""
        concepts = styles(LEDGER)
        ledger = Ledger.of(self.tower, self.tokenizer, concepts, GUARDED)
        ledger.delta()
        work: dict[str, Callable[[], object]] = {
            "change one concept": lambda: ledger.drop(concepts[1].source),
            "sums to delta": ledger.delta,
            "sums to edit, with its report": ledger.solve,
            "the same edit anew": lambda: compute_edit(self.tower, self.tokenizer, concepts, GUARDED),
        }
        yield f"ledger of {LEDGER} concepts, guarded, least of {self.repeats}: milliseconds, wall and processor"
        for name, done in work.items():
            wall, processor = zip(*(both_clocks(done) for _ in range(self.repeats)), strict=True)
            yield f"{name:>30} {1000 * min(wall):8.0f} {1000 * min(processor):8.0f}"

    def floor(self, pairs: int) -> tuple[float, float]:
        """Time and number of floating point operations of the products that no order of work avoids.

        The sum of outer products over all pairs, half of it since it is symmetric; and W0 times a sum, a Cholesky
        factor of the sum and two triangular solves. Few pairs are solved by their own, smaller, gram matrix.
        """
        width = self.tower.width
        if pairs < width:
            rows = torch.randn(pairs, width, dtype=torch.float64)
            flops = pairs**2 * width + pairs**3 / 3 + 2 * pairs**2 * width
            return seconds(lambda: torch.cholesky_solve(rows, torch.linalg.cholesky(rows @ rows.T + eye(rows)))), flops
        rows = torch.randn(min(pairs, 291 * CONCEPTS), width)
        square = torch.randn(width, width, dtype=torch.float64)
        gram = square @ square.T + eye(square)
        batch = min(seconds(lambda: symmetric_product(rows)) for _ in range(3)) * pairs / len(rows)
        rest = min(
            seconds(lambda: torch.cholesky_solve(square @ square, torch.linalg.cholesky(gram))) for _ in range(3)
        )
        return batch + rest, pairs * width**2 + (2 + 1 / 3 + 2) * width**3


def stages(edits: Sequence[WeightEdit]) -> dict[str, float]:
    """Medians of the stages from text to delta, in milliseconds."""
    names = ("tokenize", "keys", "solve")
    return {name: statistics.median(dict(edit.report.milliseconds)[name] for edit in edits) for name in names}


def both_clocks(work: Callable[[], object]) -> tuple[float, float]:
    """Wall time and processor time, in seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def eye(like: torch.Tensor) -> torch.Tensor:
    return torch.eye(len(like), dtype=like.dtype)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--concepts", type=int, nargs="+", default=list(COUNTS), help="lengths of the lists")
    parser.add_argument("--many", action="store_true", help=f"a list of {MANY} concepts, too")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = clip_l()
    tokenizer = PromptTokenizer(clip_tokenizer(), pad_token=49407)
    bench = Bench(model, TextTower.from_module(model), tokenizer, options.repeats)
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, torch {torch.__version__}")
    print("CLIP-L, random weights; published settings: lambda 0.01, four templates, padding\n")
    print(*bench.beside_the_textbook(), "", sep="\n", flush=True)
    for count in (1, 10):
        print(*bench.errors(count), "", sep="\n", flush=True)
    print(*bench.ledger(), "", sep="\n", flush=True)
    print(LEGEND)
    print("|", " | ".join(COLUMNS), "|\n|" + "---|" * len(COLUMNS), flush=True)
    for count in (*sorted(options.concepts), *([MANY] if options.many else [])):
        print(bench.list_of(count), flush=True)


if __name__ == "__main__":
    main()
