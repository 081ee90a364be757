"""The closed form of an edit, as the low-rank update it is.

With keys K = [k_1 .. k_n] (d_in x n), wanted values V, residuals R = V - W0 K, pair weights D and preserved keys P,

    min over W of  sum_i D_i ||W k_i - v_i||^2 + lam ||W - W0||_F^2 + beta ||(W - W0) P||_F^2

has the solution W0 + delta with C = lam I + beta P P^T and

    delta = R D K^T (C + K D K^T)^-1                     (d_in x d_in, for n >= d_in)
          = R D^1/2 (I + A^T A)^-1 (L^-T A)^T            (n x n, for n < d_in; C = L L^T, A = L^-1 K D^1/2)
          = [R D^1/2, 0] (lam I + E^T E)^-1 E^T          (n + m square, for n + m < d_in; E = [K D^1/2, beta^1/2 P])

Keys to hold (``held``) constrain delta to their null space: K and P are projected onto it first (``nullspace.py``).
Everything is computed in fp64 from fp32 inputs: keys of one prompt are nearly parallel, and a small lam magnifies what
fp32 would lose. In this module keys and values stand in rows, (n, d).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from .low_rank import LowRank, _carrying
from .nullspace import HeldSpan
from .preserved import Kept, PreservedRows, gram_of

# Singular directions whose sum is below this share of the update are left out: two digits below fp32.
_NEGLIGIBLE = 1e-8


# The keys' largest direction stands out far: a handful of steps finds it.
_POWER_STEPS = 30


# Rows turned to fp64 at once, and blocks of columns, of which a symmetric product needs the upper triangle.
_ROWS, _BLOCKS = 4096, 4


class SolveError(ValueError):
    """Inputs from which no edit can be computed."""


def solve(
    weight: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    lam: float,
    preserve: torch.Tensor | None = None,
    preserve_weight: float = 1.0,
    pair_weights: torch.Tensor | None = None,
    held: HeldSpan | None = None,
) -> LowRank:
    """The update that takes each key to its value.

    Args:
        weight: W0 (d_out, d_in).
        keys: (n, d_in).
        values: (n, d_out), without the layer's bias.
        lam: how strongly the old weight is kept, above 0.
        preserve: keys (m, d_in) whose outputs should stay.
        preserve_weight: beta, 0 or more.
        pair_weights: (n,), positive; how much each pair counts (default 1).
        held: the span of keys whose outputs must stay exactly.

    Returns:
        The update in fp32. Where a residual is no more than fp32 rounding of ``weight @ key`` it counts as 0, so that
        values already in place give an update of rank 0, exactly nothing.

    Raises:
        SolveError: lam not above 0, shapes that do not fit, NaN or infinity; the message names the argument.
        HeldError: the keys lie in the held span.
    """
    if weight.ndim != 2:
        raise SolveError(f"weight has shape {tuple(weight.shape)}; expected a matrix (d_out, d_in).")
    out_width, width = weight.shape
    _check("keys", keys, width)
    _check("values", values, out_width)
    if len(keys) != len(values):
        raise SolveError(f"Got {len(keys)} keys and {len(values)} values; expected one value for each key.")
    _check("weight", weight, width)
    exact, rows = weight.to(torch.float64), keys.to(torch.float64)
    residuals = values.to(torch.float64) - rows @ exact.T
    rounding = torch.finfo(torch.float32).eps * exact.norm() * rows.norm(dim=1)
    residuals = residuals.masked_fill((residuals.norm(dim=1) <= rounding)[:, None], 0.0)
    if preserve is not None:
        _check("preserve", preserve, width)
    kept = preserved_gram(preserve, preserve_weight, held)
    return solve_residuals(keys, residuals, lam=lam, kept=kept, pair_weights=pair_weights, held=held)


def solve_residuals(
    keys: torch.Tensor,
    residuals: torch.Tensor,
    *,
    lam: float,
    kept: Kept | None = None,
    pair_weights: torch.Tensor | None = None,
    held: HeldSpan | None = None,
) -> LowRank:
    """Like :func:`solve`, for residuals v - W0 k (n, d_out) already at hand; an all-zero residual gives rank 0.

    Args:
        kept: :func:`preserved_gram` of what is preserved, (d, d), or rows of which it is; nothing of the size (d, d)
            is made where these and the keys are fewer than d together.
    """
    check_lambda(lam)
    _check("keys", keys, None)
    _check("residuals", residuals, None)
    count, width = keys.shape
    if len(residuals) != count:
        raise SolveError(f"Got {count} keys and {len(residuals)} residuals; expected one residual for each key.")
    if not count or not residuals.any():
        return LowRank(keys.new_zeros(residuals.shape[1], 0), keys.new_zeros(0, width)).to(torch.float32)
    if count >= width:
        sums = Statistics.empty(width, residuals.shape[1], keys.device).add(keys, residuals, pair_weights)
        return sums.solve(lam=lam, kept=kept, held=held)
    a, r = _merged(*_weighted(_around(held, keys), residuals, pair_weights))
    if kept is None:
        inner = (a @ a.T) / lam
        inner.diagonal().add_(1.0)
        basis, mixing = torch.linalg.qr(a.T)
        return LowRank(_right_solve(r.T, inner) @ mixing.T / lam, basis.T).to(torch.float32)
    if isinstance(kept, PreservedRows) and len(a) + len(kept.rows) < width:
        return _dual(a, r, kept.rows.to(a), lam)
    factor = torch.linalg.cholesky(_regularized(gram_of(kept).to(a), lam))
    whitened = torch.linalg.solve_triangular(factor, a.T, upper=False)
    inner = whitened.T @ whitened
    inner.diagonal().add_(1.0)
    # Orthonormal rows of down keep the product of the rounded factors as accurate as the factors.
    basis, mixing = torch.linalg.qr(torch.linalg.solve_triangular(factor.T, whitened, upper=True))
    return LowRank(_right_solve(r.T, inner) @ mixing.T, basis.T).to(torch.float32)


def _dual(a: torch.Tensor, r: torch.Tensor, preserved: torch.Tensor, lam: float) -> LowRank:
    """The update of keys a (n, d) and residuals r in rows, with preserved rows (m, d), by a system of n + m."""
    every = torch.cat((a, preserved))
    inner = symmetric_product(every.T)
    inner.diagonal().add_(lam)
    first = torch.eye(len(every), len(a), dtype=a.dtype, device=a.device)
    # The preserved rows have no residual: of the inverse, the keys' columns are all that counts.
    reach = torch.cholesky_solve(first, torch.linalg.cholesky(inner))
    basis, mixing = torch.linalg.qr(every.T @ reach)
    return LowRank(r.T @ mixing.T, basis.T).to(torch.float32)


@dataclass(frozen=True)
class Statistics:
    """All that an edit needs to know about any number of pairs: sums that pairs, or other statistics, are added to.

    Attributes:
        gram: sum of w k k^T, (d_in, d_in).
        cross: sum of w r k^T, (d_out, d_in).
        energy: sum of w ||r||^2.
        pairs: number of pairs.
    """

    gram: torch.Tensor
    cross: torch.Tensor
    energy: float
    pairs: int

    @classmethod
    def empty(cls, width: int, out_width: int, device: torch.device | str = "cpu") -> Statistics:
        zeros = torch.zeros(out_width, width, dtype=torch.float64, device=device)
        return cls(zeros.new_zeros(width, width), zeros, 0.0, 0)

    def add(self, keys: torch.Tensor, residuals: torch.Tensor, pair_weights: torch.Tensor | None = None) -> Statistics:
        """These statistics and some more pairs."""
        a, r = _weighted(keys, residuals, pair_weights)
        return self + Statistics(a.T @ a, r.T @ a, float(r.square().sum()), len(keys))

    def __add__(self, other: Statistics) -> Statistics:
        return Statistics(
            self.gram + other.gram, self.cross + other.cross, self.energy + other.energy, self.pairs + other.pairs
        )

    def projected(self, held: HeldSpan | None) -> Statistics:
        """The statistics of the keys' parts outside of a held span; the residuals stay.

        Raises:
            HeldError: nothing of the keys is left.
        """
        if held is None:
            return self
        gram = held.project_gram(self.gram)
        held.require_room(float(self.gram.trace()), float(gram.trace()))
        return Statistics(gram, held.project(self.cross), self.energy, self.pairs)

    def solve(
        self,
        *,
        lam: float,
        kept: Kept | None = None,
        held: HeldSpan | None = None,
    ) -> LowRank:
        """The update for all pairs; see :func:`solve_residuals` for the arguments and errors."""
        check_lambda(lam)
        if not self.cross.any():
            return LowRank(self.cross[:, :0], self.cross[:0]).to(torch.float32)
        delta = self.delta(lam=lam, kept=kept, held=held)
        # The rows of down are delta's right singular vectors, so that up = delta @ down.T loses nothing.
        _, directions = torch.linalg.eigh(delta.T @ delta)
        basis = directions.flip(1)
        up = delta @ basis
        keep = _carrying(up.norm(dim=0), _NEGLIGIBLE)
        return LowRank(up[:, :keep].contiguous(), basis[:, :keep].T.contiguous()).to(torch.float32)

    def delta(self, *, lam: float, kept: Kept | None = None, held: HeldSpan | None = None) -> torch.Tensor:
        """The dense update of :meth:`solve`, (d_out, d_in) in fp64: a Cholesky factor and two triangular solves."""
        check_lambda(lam)
        free = self.projected(held)
        gram = free.gram if kept is None else free.gram + gram_of(kept).to(free.gram)
        return torch.cholesky_solve(free.cross.T, torch.linalg.cholesky(_regularized(gram, lam))).T

    def condition(
        self,
        *,
        lam: float,
        kept: Kept | None = None,
        held: HeldSpan | None = None,
    ) -> float:
        """1 + ||G|| / lam for the system lam I + G that :meth:`solve` solves: an upper bound of its condition number,
        exact where the keys do not span all dimensions. ||G|| by power iteration, to a percent."""
        return condition_bound(lambda vector: self.gram @ vector, self.gram[:, :1], lam=lam, kept=kept, held=held)

    def remaining(self, update: LowRank) -> float:
        """Sum of w ||(W0 + delta) k - v||^2, what the update leaves undone."""
        delta = update.to(self.gram).delta()
        left = self.energy - 2 * (self.cross * delta).sum() + ((delta @ self.gram) * delta).sum()
        return max(0.0, float(left))


def condition_bound(
    gram: Callable[[torch.Tensor], torch.Tensor],
    like: torch.Tensor,
    *,
    lam: float,
    kept: Kept | None = None,
    held: HeldSpan | None = None,
) -> float:
    """:meth:`Statistics.condition`, for keys whose Gram matrix is at hand as a product with a vector.

    Args:
        gram: (d, 1) to (d, 1).
        like: a column (d, 1) of the same type.
    """
    kept = None if kept is None else kept.to(like)
    held = None if held is None else held.to(like.device)
    step = torch.ones_like(like)
    norm = 0.0
    for _ in range(_POWER_STEPS):
        vector = step / step.norm().clamp_min(torch.finfo(torch.float64).tiny)
        vector = vector if held is None else held.project(vector.T).T
        step = gram(vector)
        if kept is not None:
            step = step + kept @ vector
        step = step if held is None else held.project(step.T).T
        before, norm = norm, float(step.norm())
        if abs(norm - before) <= 1e-3 * norm:
            break
    return 1.0 + norm / lam


def check_lambda(lam: float) -> None:
    """Refuse a lam that is not above 0 (SolveError)."""
    if not (math.isfinite(lam) and lam > 0):
        raise SolveError(
            f"lambda is {lam}; expected a number above 0, such as 0.01 (towards 0, edits turn images to noise)."
        )


def check_preserve_weight(preserve_weight: float, name: str = "preserve_weight") -> None:
    """Refuse a preserve weight below 0 (SolveError)."""
    if not (math.isfinite(preserve_weight) and preserve_weight >= 0):
        raise SolveError(f"{name} is {preserve_weight}; expected 0 or more.")


def preserved_gram(
    preserve: torch.Tensor | None, preserve_weight: float = 1.0, held: HeldSpan | None = None
) -> torch.Tensor | None:
    """beta N P P^T N (d, d) in fp64 of preserved keys in rows (m, d); None where nothing is preserved.

    Raises:
        SolveError: keys that are not finite, a weight below 0.
    """
    check_preserve_weight(preserve_weight)
    if preserve is None or not len(preserve) or not preserve_weight:
        return None
    _check("preserve", preserve, None)
    return preserve_weight * symmetric_product(preserve if held is None else held.project(preserve))


def symmetric_product(rows: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """sum of w x x^T (d, d) in fp64 over the rows x (n, d)."""
    width = rows.shape[1]
    total = torch.zeros(width, width, dtype=torch.float64, device=rows.device)
    size = -(-width // _BLOCKS)
    roots = None if weights is None else weights.double().sqrt()[:, None]
    for part in row_parts(len(rows)):
        x = rows[part].double() if roots is None else rows[part] * roots[part]
        for start in range(0, width, size):
            total[start : start + size, start:].addmm_(x[:, start : start + size].T, x[:, start:])
    return total.triu() + total.triu(1).T


def row_parts(count: int) -> Iterator[slice]:
    """Rows that are turned to fp64 at once."""
    return (slice(start, start + _ROWS) for start in range(0, count, _ROWS))


def _around(held: HeldSpan | None, keys: torch.Tensor) -> torch.Tensor:
    """Keys without their parts in a held span."""
    if held is None:
        return keys
    free = held.project(keys)
    held.require_room(float(keys.double().square().sum()), float(free.square().sum()))
    return free


def _check(name: str, rows: torch.Tensor, width: int | None) -> None:
    if rows.ndim != 2 or width not in (None, rows.shape[1]):
        raise SolveError(f"{name} has shape {tuple(rows.shape)}; expected (n, {'d' if width is None else width}).")
    if not torch.isfinite(rows).all():
        raise SolveError(f"{name} holds NaN or infinity; the text encoder's weights or its inputs are damaged.")


def _weighted(
    keys: torch.Tensor, residuals: torch.Tensor, pair_weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    a, r = keys.to(torch.float64), residuals.to(torch.float64)
    if pair_weights is None:
        return a, r
    if pair_weights.shape != (len(keys),) or not (torch.isfinite(pair_weights) & (pair_weights > 0)).all():
        raise SolveError(
            f"pair_weights has shape {tuple(pair_weights.shape)}; expected ({len(keys)},) finite numbers above 0."
        )
    root = pair_weights.to(a).sqrt()[:, None]
    return a * root, r * root


def _merged(a: torch.Tensor, r: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Equal keys as one: m times the same key a is sqrt(m) a, with the sum of the residuals over sqrt(m)."""
    # Rows are told apart by one number each; should two different rows share it, nothing is merged.
    marks = (a * torch.arange(1, a.shape[1] + 1, device=a.device, dtype=a.dtype).cos()).sum(1)
    distinct, index, counts = torch.unique(marks, return_inverse=True, return_counts=True)
    if len(distinct) == len(a):
        return a, r
    merged = a.new_empty(len(distinct), a.shape[1])
    merged[index] = a
    if not torch.equal(merged[index], a):
        return a, r
    root = counts.to(a).sqrt()[:, None]
    summed = r.new_zeros(len(distinct), r.shape[1]).index_add_(0, index, r)
    return merged * root, summed / root


def _right_solve(r: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    """r @ inner^-1 for a symmetric positive definite ``inner``."""
    return torch.cholesky_solve(r.T, torch.linalg.cholesky(inner)).T


def _regularized(gram: torch.Tensor, lam: float) -> torch.Tensor:
    """gram + lam I."""
    gram = gram.clone()
    gram.diagonal().add_(lam)
    return gram
