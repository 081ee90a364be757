"""Half precision on processors that multiply matrices in bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def half_precision() -> Iterator[None]:
    """Run what is inside in bfloat16 where torch holds that safe.

    Attention is then written out as matrix products, which such processors multiply fast; the fused kernel is slower.
    """
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


class HalfDenoiser:
    """A denoiser that computes in half precision and answers in fp32."""

    def __init__(self, denoiser: Any) -> None:
        self._denoiser = denoiser

    def __call__(self, *given: Any, **more: Any) -> Any:
        with half_precision():
            return SimpleNamespace(sample=self._denoiser(*given, **more).sample.float())
