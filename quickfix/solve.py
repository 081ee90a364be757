"""The closed-form edit, as an exact low-rank update.

    minimise over W   sum_i w_i ||W k_i - v_i||^2 + beta sum_j ||W p_j - W0 p_j||^2 + lambda ||W - W0||_F^2

With K = [k_1 .. k_n], R = V - W0 K and A = lambda I + beta P P^T the minimiser is

    W - W0 = R K^T (A + K K^T)^-1  =  R (I + K^T A^-1 K)^-1 K^T A^-1          (push-through)

an update of rank at most min(n, d), computed from an n x n system where n < d and from a d x d system otherwise. Sums are
formed and solved in fp64: the textbook form (lambda W0 + V K^T)(lambda I + K K^T)^-1 in fp32 loses the edit in the
rounding of W0 itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


class SolveError(ValueError):
    """Inputs from which no edit can be computed."""


@dataclass(frozen=True)
class LowRank:
    """A matrix ``up @ down``: up (out, rank), down (rank, in), both fp32; the rows of ``down`` are orthonormal."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    def dense(self) -> torch.Tensor:
        return self.up @ self.down


def solve(
    weight: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    *,
    lam: float,
    preserve: torch.Tensor | None = None,
    preserve_weight: float = 1.0,
    pair_weights: torch.Tensor | None = None,
) -> LowRank:
    """The update of ``weight`` that sends each key to its value.

    Args:
        weight: W0, (out, in).
        keys: k_i as rows, (n, in).
        values: v_i as rows, (n, out), without the layer's bias.
        lam: lambda > 0, the weight of staying near W0.
        preserve: p_j as rows, (m, in); inputs whose outputs should stay.
        preserve_weight: beta >= 0.
        pair_weights: w_i > 0, (n,).

    Raises:
        SolveError: shapes that do not fit, NaN or infinity, lambda not positive.
    """
    if values.shape != (keys.shape[0], weight.shape[0]) or keys.shape[1] != weight.shape[1]:
        raise SolveError(
            f"Shapes do not fit: weight {tuple(weight.shape)}, keys {tuple(keys.shape)}, values {tuple(values.shape)}; "
            "expected (out, in), (n, in) and (n, out)."
        )
    _check_finite(weight=weight, values=values)
    residual = values.double() - keys.double() @ weight.double().T
    return solve_residual(
        keys, residual, lam=lam, preserve=preserve, preserve_weight=preserve_weight, pair_weights=pair_weights
    )


def solve_residual(
    keys: torch.Tensor,
    residual: torch.Tensor,
    *,
    lam: float,
    preserve: torch.Tensor | None = None,
    preserve_weight: float = 1.0,
    pair_weights: torch.Tensor | None = None,
) -> LowRank:
    """As :func:`solve`, from the residuals r_i = v_i - W0 k_i as rows, (n, out). A zero residual gives exactly zero."""
    if not (math.isfinite(lam) and lam > 0):
        raise SolveError(f"lambda is {lam}; expected a number above 0 (the paper uses 0.01). At 0 the edit is unbounded.")
    if not (math.isfinite(preserve_weight) and preserve_weight >= 0):
        raise SolveError(f"The weight of the preserve set is {preserve_weight}; expected a number of at least 0.")
    if keys.ndim != 2 or residual.ndim != 2 or len(keys) != len(residual) or len(keys) == 0:
        raise SolveError(f"Found {tuple(keys.shape)} keys and {tuple(residual.shape)} residuals; expected (n, in), (n, out).")
    _check_finite(keys=keys, residual=residual)
    if preserve is not None:
        if preserve.ndim != 2 or preserve.shape[1] != keys.shape[1]:
            raise SolveError(f"Preserve keys have shape {tuple(preserve.shape)}; expected (m, {keys.shape[1]}).")
        _check_finite(preserve=preserve)
    if pair_weights is not None:
        if pair_weights.shape != (len(keys),) or not bool((pair_weights > 0).all()):
            raise SolveError(f"Pair weights must be {len(keys)} positive numbers.")
        _check_finite(pair_weights=pair_weights)

    k, r = _merge_equal_keys(keys, residual.double(), pair_weights)
    anchor = None
    if preserve is not None and len(preserve) and preserve_weight > 0:
        p = preserve.double()
        anchor = (p.T @ p).mul_(preserve_weight)
        anchor.diagonal().add_(lam)
    if k.shape[0] < k.shape[1]:
        return _solve_by_pairs(k, r, lam, anchor)
    return _solve_by_width(k, r, lam, anchor)


def _solve_by_pairs(k: torch.Tensor, r: torch.Tensor, lam: float, anchor: torch.Tensor | None) -> LowRank:
    if anchor is None:
        right, gram = k, k @ k.T
        gram.diagonal().add_(lam)
    else:
        right = torch.cholesky_solve(k.T, torch.linalg.cholesky(anchor)).T
        gram = right @ k.T
        gram = (gram + gram.T) / 2
        gram.diagonal().add_(1.0)
    left = torch.cholesky_solve(r, torch.linalg.cholesky(gram)).T
    # An orthonormal right factor: with nearly parallel keys, left and right alone are huge and cancel in fp32.
    q, upper = torch.linalg.qr(right.T)
    return LowRank((left @ upper.T).float(), q.T.float().contiguous())


def _solve_by_width(k: torch.Tensor, r: torch.Tensor, lam: float, anchor: torch.Tensor | None) -> LowRank:
    gram = k.T @ k
    if anchor is None:
        gram.diagonal().add_(lam)
    else:
        gram += anchor
    up = torch.cholesky_solve(k.T @ r, torch.linalg.cholesky(gram)).T
    return LowRank(up.float(), torch.eye(k.shape[1]))


def _merge_equal_keys(
    keys: torch.Tensor, residual: torch.Tensor, pair_weights: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join pairs of one and the same key into one pair of summed weight and mean residual; rows scaled by sqrt(weight)."""
    weights = torch.ones(len(keys), dtype=torch.float64) if pair_weights is None else pair_weights.double()
    distinct, group = torch.unique(keys, dim=0, return_inverse=True)
    if len(distinct) == len(keys):
        root = weights.sqrt()[:, None]
        return keys.double() * root, residual * root
    total = torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, group, weights)
    sums = torch.zeros(len(distinct), residual.shape[1], dtype=torch.float64)
    sums.index_add_(0, group, residual * weights[:, None])
    root = total.sqrt()[:, None]
    return distinct.double() * root, sums / root


def _check_finite(**tensors: torch.Tensor) -> None:
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise SolveError(f"The {name.replace('_', ' ')} hold NaN or infinity.")
