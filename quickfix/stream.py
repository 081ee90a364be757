"""Many concepts as sums: pairs are encoded a few concepts at a time, added up, and forgotten.

For pairs of a source key k and a target key k*, with the change c = k* - k and the weight w, three sums are kept,

    gram = sum w k k^T      moment = sum w c k^T      change = sum w c c^T

and the statistics of the solve follow from them once, whatever the number of pairs: a residual is r = W0 c (+ bias), so
cross = sum w r k^T = W0 moment and energy = sum w ||r||^2 = tr(W0 change W0^T).

Concepts that share a target share its keys. With C_t the sum of w c over the pairs of one target key,

    sum w c k*^T = sum_t C_t k*_t^T     and     k = k* - c

leave ``change`` as the only sum over all pairs. Sums are in fp64: keys of one prompt are nearly parallel, and a small
lambda magnifies what fp32 would lose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import torch

from ..text.prompts import PromptTokenizer
from .concepts.concept import ConceptEdit
from .concepts.pairs import TokenPairs, pair_tokens
from .concepts.settings import EditSettings
from .encoder.towers import Tower, TowerError, up_to
from .guard import Guard
from .measure.stopwatch import Stopwatch
from .solver.closed_form import Statistics, condition_bound, row_parts, solve_residuals, symmetric_product
from .solver.low_rank import LowRank, reached, share_reached
from .solver.nullspace import HeldSpan

# Concepts encoded at once.
CONCEPTS = 64


@dataclass(frozen=True)
class PairKeys:
    """The keys of some pairs.

    Attributes:
        source: keys (n, d) of the source captions.
        target: keys (m, d) of the target captions, each once.
        index: (n,), the target key of each pair.
        weights: (n,) in fp64, or None where every pair counts 1.
    """

    source: torch.Tensor
    target: torch.Tensor
    index: torch.Tensor
    weights: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.source)

    @classmethod
    def joined(cls, parts: Sequence[PairKeys]) -> PairKeys:
        """Several as one."""
        if len(parts) == 1:
            return parts[0]
        starts = accumulate((len(part.target) for part in parts), initial=0)
        weights = None
        if any(part.weights is not None for part in parts):
            ones = parts[0].source.new_ones(max(map(len, parts)), dtype=torch.float64)
            weights = torch.cat([ones[: len(part)] if part.weights is None else part.weights for part in parts])
        return cls(
            torch.cat([part.source for part in parts]),
            torch.cat([part.target for part in parts]),
            torch.cat([part.index + start for part, start in zip(parts, starts, strict=False)]),
            weights,
        )

    def changes(self) -> torch.Tensor:
        """k* - k, (n, d): exactly 0 where both captions agree."""
        return self.target[self.index] - self.source

    def residuals(self, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """v - W0 k (n, d_out); W0 is the identity where there is no weight."""
        residuals = self.changes() if weight is None else self.changes() @ weight.T
        return residuals if bias is None else residuals + bias

    def sums(self) -> KeySums:
        """The sums over these pairs."""
        changes = self.changes()
        counts = self.target.new_zeros(len(self.target), dtype=torch.float64)
        ones = counts.new_ones(len(self)) if self.weights is None else self.weights
        counts.index_add_(0, self.index, ones)
        totals = counts.new_zeros(self.target.shape)
        for part in row_parts(len(changes)):
            rows = changes[part].double()
            totals.index_add_(0, self.index[part], rows if self.weights is None else rows * self.weights[part, None])
        change = symmetric_product(changes, self.weights)
        mixed = totals.T @ self.target.double()
        moment = mixed - change
        gram = symmetric_product(self.target, counts) - mixed - moment.T
        keys = counts @ self.target.double() - totals.sum(0)
        return KeySums(gram, moment, change, keys, totals.sum(0), float(ones.sum()), len(self))


@dataclass(frozen=True)
class KeySums:
    """Sums over pairs, without the edited weight: see the module's text.

    Attributes:
        gram, moment, change: (d, d) in fp64.
        keys, changes: sums of w k and of w c, (d,).
        weight: sum of w.
        pairs: number of pairs.
    """

    gram: torch.Tensor
    moment: torch.Tensor
    change: torch.Tensor
    keys: torch.Tensor
    changes: torch.Tensor
    weight: float
    pairs: int

    @classmethod
    def empty(cls, width: int, device: torch.device | str = "cpu") -> KeySums:
        matrix = torch.zeros(width, width, dtype=torch.float64, device=device)
        return cls(matrix, matrix, matrix, matrix[0], matrix[0], 0.0, 0)

    def __add__(self, other: KeySums) -> KeySums:
        return KeySums(
            self.gram + other.gram,
            self.moment + other.moment,
            self.change + other.change,
            self.keys + other.keys,
            self.changes + other.changes,
            self.weight + other.weight,
            self.pairs + other.pairs,
        )

    def statistics(self, weight: torch.Tensor | None, bias: torch.Tensor | None = None) -> Statistics:
        """What the solve needs, for the weight W0 (d_out, d), the identity where there is none, and, where the values
        carry it, the layer's bias."""
        if weight is None:
            return Statistics(self.gram, self.moment, float(self.change.trace()), self.pairs)
        w = weight.double()
        energy = float(((w @ self.change) * w).sum())
        if bias is not None:
            b = bias.double()
            energy += float(2 * b @ (w @ self.changes) + self.weight * (b @ b))
        return Statistics(self.gram, self.cross(weight, bias), energy, self.pairs)

    def cross(self, weight: torch.Tensor | None, bias: torch.Tensor | None = None) -> torch.Tensor:
        """sum of w r k^T, (d_out, d), for the weight W0 and the bias of :meth:`statistics`."""
        if weight is None:
            return self.moment
        cross = weight.double() @ self.moment
        return cross if bias is None else cross + torch.outer(bias.double(), self.keys)


@dataclass(frozen=True)
class GatheredPairs:
    """Pairs ready to solve: few as they are, many as sums. Without a weight it is the identity."""

    few: PairKeys | None
    streamed: Statistics | None
    weight: torch.Tensor | None
    bias: torch.Tensor | None

    def __len__(self) -> int:
        return self.sums.pairs if self.few is None else len(self.few)

    @cached_property
    def sums(self) -> Statistics:
        """The statistics of all pairs."""
        if self.streamed is not None:
            return self.streamed
        assert self.few is not None
        return self.few.sums().statistics(self.weight, self.bias)

    @property
    def agree(self) -> bool:
        """Whether all sources have the outputs of their targets, up to the rounding of fp32."""
        if self.bias is not None:
            return False
        if self.few is None:
            energy, keys = self.sums.energy, float(self.sums.gram.trace())
        else:
            residuals = self.few.residuals(self.weight, None)
            energy, keys = (float(rows.double().square().sum()) for rows in (residuals, self.few.source))
        size = self.sums.gram.shape[0] if self.few is None else self.few.source.shape[1]
        norm = size**0.5 if self.weight is None else float(self.weight.norm())
        rounding = torch.finfo(torch.float32).eps * norm
        return energy <= rounding**2 * keys

    def solve(self, lam: float, guard: Guard) -> LowRank:
        """The update that fits them."""
        lam, kept = guard.system(lam)
        if self.few is None:
            return self.sums.solve(lam=lam, kept=kept, held=guard.held)
        residuals = self.few.residuals(self.weight, self.bias)
        return solve_residuals(
            self.few.source, residuals, lam=lam, kept=kept, pair_weights=self.few.weights, held=guard.held
        )

    def condition(self, lam: float, guard: Guard) -> float:
        """:meth:`Statistics.condition` of the system that :meth:`solve` solves."""
        lam, kept = guard.system(lam)
        if self.few is None:
            return self.sums.condition(lam=lam, kept=kept, held=guard.held)
        keys = self.few.source.double()
        rows = keys if self.few.weights is None else keys * self.few.weights[:, None]
        return condition_bound(lambda vector: rows.T @ (keys @ vector), keys[:1].T, lam=lam, kept=kept, held=guard.held)

    def held_share(self, held: HeldSpan) -> float:
        """:meth:`HeldSpan.share` of their source keys."""
        return held.share(self.sums.gram) if self.few is None else held.share_of(self.few.source, self.few.weights)

    def efficacy(self, update: LowRank) -> float:
        """How far an update takes their outputs to what is wanted, 0 to 1."""
        if self.few is None:
            return share_reached(self.sums.energy, self.sums.remaining(update))
        return reached(self.few.source, self.few.residuals(self.weight, self.bias), update, self.few.weights)


def gather_pairs(
    tower: Tower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    watch: Stopwatch,
    progress: Callable[[int, int], None] | None = None,
) -> GatheredPairs:
    """The pairs of some concepts; memory does not grow with their number.

    Args:
        progress: called with (batches done, all batches) of :data:`CONCEPTS` concepts.

    Raises:
        SubjectError: a concept that its own captions do not hold.
    """
    weight, bias = edited_layer(tower, settings)
    width = tower.width if weight is None else weight.shape[1]
    few: list[PairKeys] = []
    total: KeySums | None = None
    batches = -(-len(concepts) // CONCEPTS)
    for number in range(batches):
        batch = concepts[CONCEPTS * number : CONCEPTS * (number + 1)]
        with watch.stage("tokenize"):
            pairs = tokenize_pairs(tokenizer, batch, settings.positions)
        with watch.stage("keys"):
            few.append(encode_pairs(tower, pairs, settings, [concept.weight for concept in batch]))
        with watch.stage("solve"):
            # Fewer pairs than the keys are wide are solved as they are, which is quicker and of lower rank.
            if total is not None or sum(map(len, few)) >= width:
                for keys in few:
                    total = keys.sums() if total is None else total + keys.sums()
                few.clear()
        if progress is not None:
            progress(number + 1, batches)
    if few:
        return GatheredPairs(PairKeys.joined(few), None, weight, bias)
    with watch.stage("solve"):
        total = KeySums.empty(width, tower.device) if total is None else total
        return GatheredPairs(None, total.statistics(weight, bias), weight, bias)


def edited_layer(tower: Tower, settings: EditSettings) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """W0 of the edited layer, None where it is the identity, and its bias where the settings want it in the values."""
    if tower.identity:
        return None, None
    name = tower.out_proj_name(settings.layer)
    return tower.weight(name), tower.weight(name.replace(".weight", ".bias")) if settings.published_bias else None


def tokenize_pairs(tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], positions: str) -> TokenPairs:
    """The token pairs of some concepts (see :func:`pair_tokens` for the errors)."""
    wanted = [(concept.source, concept.target or "", concept.templates or ()) for concept in concepts]
    return pair_tokens(tokenizer, wanted, positions)


def encode_pairs(
    tower: Tower, pairs: TokenPairs, settings: EditSettings, weights: Sequence[float] | None = None
) -> PairKeys:
    """The keys of some pairs in the edited layer; ``weights`` has one number for each concept.

    Raises:
        TowerError: the pairs' captions were padded to another length than the text encoder reads.
    """
    length = len(pairs.ids[0])
    if length != tower.context_length:
        raise TowerError(
            f"The tokenizer makes prompts of {length} tokens, the text encoder reads {tower.context_length}. Give the "
            f"tokenizer context_length={tower.context_length}."
        )
    where = torch.cat((pairs.source, pairs.target))
    positions = range(int(where[:, 1].min()), int(where[:, 1].max()) + 1)
    ends = torch.zeros(len(pairs.captions), dtype=torch.long).scatter_reduce(0, where[:, 0], where[:, 1], "amax")
    inputs = tower.attention_inputs(up_to(tower, pairs.ids, ends), settings.layer, positions).flatten(0, 1)
    source, target = (
        (where[:, 0] * len(positions) + where[:, 1] - positions.start).to(inputs.device)
        for where in (pairs.source, pairs.target)
    )
    target, index = target.unique(return_inverse=True)
    each = None
    if weights is not None and any(weight != 1 for weight in weights):
        counts = torch.tensor(pairs.counts)
        each = torch.tensor(weights, dtype=torch.float64).repeat_interleave(counts).to(inputs.device)
    return PairKeys(inputs[source], inputs[target], index, each)
