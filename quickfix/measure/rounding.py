"""What storing an edited weight in a model's own precision leaves of the edit."""

from __future__ import annotations

from typing import NamedTuple

import torch


class StorageRounding(NamedTuple):
    """What rounding to a model's own dtype does to an edit."""

    error: float
    """Relative error of the realised delta, ||realised - delta|| / ||delta||."""
    swallowed: float
    """Share of the delta's non-zero entries that change nothing."""
    realised: float = 1.0
    """How much of the edit the rounded weight carries, <realised, delta> / ||delta||^2; 1 is all of it."""


def storage_rounding(
    weight: torch.Tensor, delta: torch.Tensor, dtype: torch.dtype, arithmetic: torch.dtype = torch.float32
) -> StorageRounding:
    """How much of ``delta`` survives when ``weight + delta`` is kept as ``dtype``; all of it for fp32 and wider.

    Args:
        arithmetic: what the two are turned to before they are added; ComfyUI adds in fp16 on many GPUs.
    """
    changed = delta != 0
    if min(torch.finfo(dtype).bits, torch.finfo(arithmetic).bits) >= 32 or not changed.any():
        return StorageRounding(0.0, 0.0, 1.0)
    # Numbers of half precision differ by what fp32 holds.
    weight = weight.to(delta.device)
    before, wanted = weight.to(dtype).float(), delta.float()
    realised = (weight.to(arithmetic) + wanted.to(arithmetic)).to(dtype).float() - before
    size = float(wanted.norm())
    return StorageRounding(
        error=float((realised - wanted).norm()) / size,
        swallowed=int((changed & (realised == 0)).sum()) / int(changed.sum()),
        realised=float((realised * wanted).sum()) / size**2,
    )
