"""Keys that an edit may not move at all: the span that they hold, and the way around it.

With P the keys to hold, an update delta leaves their outputs exactly where they are if and only if delta P = 0. Every
such delta is delta N for the projection N onto the orthogonal complement of P's span, and since delta k = delta N k,
the edit under that constraint is the ordinary edit of the projected keys N k (Fang et al., AlphaEdit, arXiv
2410.02355).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

# A direction counts as held where its singular value among the unit-length keys is above this share of the largest.
# The keys come from fp32; what lies below is their rounding, and an edit moves it by less than 1e-5 of an output.
RANK_TOLERANCE = torch.finfo(torch.float32).eps
# Keys of which less than this share (root of the energy) lies outside of the span are rounding and no more.
_NOTHING = 1e-6


class HeldError(ValueError):
    """Held keys that leave an edit no room."""


@dataclass(frozen=True)
class HeldSpan:
    """The span of the keys to hold.

    Attributes:
        basis: orthonormal rows (rank, d) in fp64.
    """

    basis: torch.Tensor

    @classmethod
    def of(cls, keys: torch.Tensor) -> HeldSpan:
        """The span of some keys (m, d), by a singular value decomposition in fp64 (see :data:`RANK_TOLERANCE`).

        Raises:
            HeldError: the keys span all d dimensions.
        """
        width = keys.shape[1]
        rows = keys.to(torch.float64)
        rows = rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        if len(rows) > width:
            rows = torch.linalg.qr(rows, mode="r")[1]
        _, values, directions = torch.linalg.svd(rows, full_matrices=False)
        rank = int((values > RANK_TOLERANCE * values.amax(0, keepdim=True)).sum()) if len(values) else 0
        if rank == width:
            raise HeldError(
                f"The prompts to hold have {len(keys)} distinct token keys, which span all {width} dimensions: no edit "
                'leaves every one of them in place. Hold fewer prompts, or preserve them softly (mode "soft").'
            )
        return cls(directions[:rank].contiguous())

    def to(self, device: torch.device | str) -> HeldSpan:
        """The span with its basis on a device."""
        return HeldSpan(self.basis.to(device))

    @property
    def rank(self) -> int:
        return self.basis.shape[0]

    def project(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (n, d) without their part in the span, in fp64."""
        rows = rows.to(torch.float64)
        basis = self.basis.to(rows.device)
        return rows - (rows @ basis.T) @ basis

    def project_gram(self, gram: torch.Tensor) -> torch.Tensor:
        """N gram N, the Gram matrix of the projected keys (d, d)."""
        projected = self.project(self.project(gram).T)
        return (projected + projected.T) / 2

    def share(self, gram: torch.Tensor) -> float:
        """Share, 0 to 1, of the energy of keys with this Gram matrix that lies in the span."""
        basis = self.basis.to(gram)
        energy = float(gram.trace())
        return min(1.0, max(0.0, float(((basis @ gram) * basis).sum()) / energy)) if energy else 0.0

    def share_of(self, keys: torch.Tensor, weights: torch.Tensor | None = None) -> float:
        """:meth:`share` of keys in rows (n, d), each of a weight."""
        rows = keys.double() if weights is None else keys.double() * weights.sqrt()[:, None]
        energy = float(rows.square().sum())
        return min(1.0, float((rows @ self.basis.to(rows).T).square().sum()) / energy) if energy else 0.0

    def require_room(self, before: float, after: float) -> None:
        """Refuse keys whose energy (sum of squared norms) is ``before``, and ``after`` projection nothing.

        Raises:
            HeldError: the edited keys lie in the span.
        """
        if after <= _NOTHING**2 * before:
            raise HeldError(
                f"The keys to edit lie in the span of the prompts to hold ({self.rank} dimensions): holding these "
                'prompts holds the concept too. Hold fewer prompts, or preserve them softly (mode "soft").'
            )
