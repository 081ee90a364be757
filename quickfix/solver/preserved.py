"""Preserved keys as rows, where they are fewer than their dimensions: their Gram matrix is never made."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .nullspace import HeldSpan


@dataclass(frozen=True)
class PreservedRows:
    """beta N P P^T N of preserved keys P, as the rows F of which it is F^T F.

    Attributes:
        rows: (m, d) in fp64.
    """

    rows: torch.Tensor

    @classmethod
    def of(cls, keys: torch.Tensor, weight: float, held: HeldSpan | None = None) -> PreservedRows:
        """The rows of some keys (m, d), projected around a held span, each of the weight beta."""
        return cls((keys.double() if held is None else held.project(keys)) * weight**0.5)

    def to(self, like: torch.Tensor | torch.device | str) -> PreservedRows:
        """On a device, or of a tensor's type and on its device."""
        return PreservedRows(self.rows.to(like))

    def gram(self) -> torch.Tensor:
        """F^T F (d, d)."""
        return self.rows.T @ self.rows

    def __matmul__(self, columns: torch.Tensor) -> torch.Tensor:
        """F^T F times columns (d, n)."""
        return self.rows.T @ (self.rows @ columns)


# What is preserved: its Gram matrix (d, d), or rows.
Kept = torch.Tensor | PreservedRows


def gram_of(kept: Kept) -> torch.Tensor:
    """The Gram matrix (d, d) of what is preserved."""
    return kept.gram() if isinstance(kept, PreservedRows) else kept
