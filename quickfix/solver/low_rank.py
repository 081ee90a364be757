"""A low-rank update of a weight, and how far it takes keys to their values."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LowRank:
    """An update ``up @ down`` of a weight: up (d_out, rank), down (rank, d_in) with orthonormal rows."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    def delta(self) -> torch.Tensor:
        """The dense update (d_out, d_in)."""
        return self.up @ self.down

    def coordinates(self, keys: torch.Tensor) -> torch.Tensor:
        """delta k for keys (..., d_in) in an orthonormal basis of its span, (..., rank): the norms are the same."""
        _, mixing = torch.linalg.qr(self.up.double(), mode="r")
        return keys @ (mixing @ self.down.double()).to(keys).T

    def applied(self, rows: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        """Rows (..., d) and the update of them, x + strength (up @ down) x, in their own type and on their device."""
        exact = rows.float()
        changed = exact + (exact @ self.down.to(exact).T) @ (self.up * strength).to(exact).T
        return changed.to(rows.dtype)

    def to(self, like: torch.dtype | torch.Tensor) -> LowRank:
        """With factors of a type, or of a tensor's type and on its device."""
        return LowRank(self.up.to(like), self.down.to(like))

    def truncated(self, tolerance: float) -> LowRank:
        """The update of least rank within ``tolerance`` of this one (relative Frobenius norm), by singular values."""
        left, values, right = torch.linalg.svd(self.up.double(), full_matrices=False)
        keep = _carrying(values, tolerance)
        down = right[:keep] @ self.down.double()
        return LowRank(left[:, :keep] * values[:keep], down).to(self.up.dtype)


def _carrying(sizes: torch.Tensor, tolerance: float) -> int:
    """How many of some sizes, largest first, carry all but ``tolerance`` of their root sum of squares."""
    tails = sizes.double().square().flip(0).cumsum(0).sqrt().flip(0)
    return int((tails > tolerance * tails[0]).sum()) if len(sizes) else 0


def reached(
    keys: torch.Tensor, residuals: torch.Tensor, update: LowRank, pair_weights: torch.Tensor | None = None
) -> float:
    """Efficacy on some pairs: 1 - ||R - delta K|| / ||R||, clamped to 0 to 1; 1 where nothing was to be done.

    Args:
        keys: (n, d_in).
        residuals: (n, d_out), v - W0 k.
        pair_weights: (n,), how much each pair counts (default 1).
    """
    left = residuals - keys @ update.down.to(keys).T @ update.up.to(keys).T
    energies = (rows.square().sum(1).double() for rows in (residuals, left))
    before, after = (float((e if pair_weights is None else e * pair_weights).sum()) for e in energies)
    return share_reached(before, after)


def share_reached(energy: float, left: float) -> float:
    """Efficacy from the sum of squared residuals before the edit and after it."""
    return 1.0 if energy == 0 else min(1.0, max(0.0, 1.0 - (left / energy) ** 0.5))
