"""Corruption: what hides the subject of a prompt from the text encoder.

A corruption is a shift of the subject's token embeddings, one for each draw: Gaussian noise as in ROME, whose standard
deviation is a multiple of that of the subject's own embeddings (the paper publishes none; 3 is ROME's), or the step to
the embeddings of other words, which corrupts without noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

ROME_MULTIPLE = 3.0
ALL_ENCODERS = "all"
EXTENTS = ("subject", "whole prompt")


class CorruptionError(ValueError):
    """Noise that cannot be drawn, or words that cannot replace the subject."""


@dataclass(frozen=True)
class CorruptionSettings:
    """How a subject is hidden.

    Attributes:
        multiple: std of the noise, as a multiple of the std of the embeddings that it hides.
        draws: how many draws of the noise are traced.
        seed: seed of the noise.
        replaced_by: words whose embeddings take the subject's place; there is one draw then, and no noise in it.
        extent: one of :data:`EXTENTS`; "whole prompt" corrupts every token from the text's first on, padding too.
        encoder: the text encoder in which it is hidden, or all of them; the others then read the prompt as it is.
    """

    multiple: float = 3.0
    draws: int = 1
    seed: int = 0
    replaced_by: str = ""
    extent: str = EXTENTS[0]
    encoder: str = ALL_ENCODERS

    def __post_init__(self) -> None:
        if self.extent not in EXTENTS:
            raise CorruptionError(f"Unknown extent {self.extent!r}; expected one of {', '.join(EXTENTS)}.")
        if self.replaced_by.strip() and self.extent != EXTENTS[0]:
            raise CorruptionError("Other words can take the subject's place only; set corrupt to subject.")

    @property
    def traced(self) -> int:
        """The number of draws to trace."""
        return 1 if self.replaced_by.strip() else self.draws


@dataclass(frozen=True)
class Corruption:
    """Shifts of the subject's token embeddings.

    Attributes:
        positions: the subject's token positions in its 77 tokens.
        deltas: (draws, len(positions), width), fp32, on the CPU.
        std: standard deviation of the noise, in the units of the embeddings; 0 when words were replaced.
        seed: the seed of the draws.
    """

    positions: tuple[int, ...]
    deltas: torch.Tensor
    std: float
    seed: int

    @property
    def draws(self) -> int:
        return len(self.deltas)


def gaussian(
    embeddings: torch.Tensor,
    positions: tuple[int, ...],
    *,
    multiple: float = ROME_MULTIPLE,
    std: float | None = None,
    draws: int = 1,
    seed: int = 0,
) -> Corruption:
    """Additive Gaussian noise on the subject's embeddings.

    Args:
        embeddings: the subject's token embeddings (len(positions), width), without the positions' own.
        multiple: the noise's std as a multiple of the std of ``embeddings``.
        std: the noise's std itself; overrides ``multiple``.
        draws: how many independent draws.
        seed: draw ``d`` depends on the seed and on ``d`` alone.

    Raises:
        CorruptionError: no draws, a std that is not positive and finite, or embeddings of another number of tokens.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(positions) or not positions:
        raise CorruptionError(
            f"Got embeddings of shape {tuple(embeddings.shape)} for {len(positions)} subject tokens; expected one row "
            "for each of at least one token."
        )
    if draws < 1:
        raise CorruptionError(f"At least one draw of the noise is needed; got {draws}.")
    size = float(embeddings.float().std()) * multiple if std is None else float(std)
    if not (math.isfinite(size) and size > 0):
        raise CorruptionError(
            f"The noise has a standard deviation of {size}; expected a positive number. Raise the noise's multiple, or "
            "check that the text encoder knows the subject's words (their embeddings may all be equal)."
        )
    noise = [
        torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(_mix(seed, draw)))
        for draw in range(draws)
    ]
    return Corruption(positions, size * torch.stack(noise), size, seed)


def _mix(seed: int, draw: int) -> int:
    return (seed * 1_000_003 + draw) % 2**63


def replacement(embeddings: torch.Tensor, positions: tuple[int, ...], others: torch.Tensor) -> Corruption:
    """The subject's embeddings become those of other words (a counterfactual prompt); one draw, no noise.

    Args:
        others: embeddings (m, width) of the other words. With fewer than the subject's tokens the last is repeated.

    Raises:
        CorruptionError: there are none, more than the subject has tokens, or they are the subject's own.
    """
    if not 0 < len(others) <= len(positions):
        raise CorruptionError(
            f"{len(others)} tokens cannot stand for a subject of {len(positions)} tokens; choose words of at most as "
            "many tokens."
        )
    filled = torch.cat([others, others[-1:].expand(len(positions) - len(others), -1)]).float()
    delta = (filled - embeddings.float()).cpu()
    if not delta.any():
        raise CorruptionError("The replacing words are the subject itself; nothing would be corrupted.")
    return Corruption(positions, delta[None], 0.0, 0)
