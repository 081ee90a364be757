"""A selective ridge: what an update costs, by the covariance of keys in place of the identity.

The solve (``closed_form.py``) charges lam ||delta||_F^2: every direction of the keys costs the same. With the Gram
matrix S of many other keys, scaled to the trace of the identity, and a selectivity s from 0 to below 1,

    lam tr(delta C delta^T),    C = (1 - s) I + s S

moving what other keys have in common costs more, and moving what sets the edited keys apart costs less: the shrinkage
of a covariance towards the identity (Ledoit and Wolf 2004). At s = 0 it is the solve as it was. The system of the
normal equations keeps its form, with lam (1 - s) in place of lam and lam s S beside what is preserved.
"""

from __future__ import annotations

import math

import torch

from .closed_form import SolveError, check_lambda
from .preserved import Kept, gram_of


def check_selectivity(selectivity: float) -> None:
    """Refuse a selectivity outside of 0 to below 1 (SolveError)."""
    if not (math.isfinite(selectivity) and 0 <= selectivity < 1):
        raise SolveError(f"selectivity is {selectivity}; expected a number from 0 to below 1, such as 0.9.")


def normalized(gram: torch.Tensor) -> torch.Tensor:
    """S: a Gram matrix (d, d) in fp64, scaled to the trace of the identity.

    Raises:
        SolveError: it is no square matrix, holds NaN or infinity, or has no positive trace.
    """
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise SolveError(f"The Gram matrix has shape {tuple(gram.shape)}; expected (d, d).")
    trace = float(gram.double().trace())
    if not (torch.isfinite(gram).all() and trace > 0):
        raise SolveError(f"The Gram matrix has the trace {trace} or holds NaN; expected finite keys that are not zero.")
    return gram.double() * (len(gram) / trace)


def selective(
    lam: float, kept: Kept | None, ridge: torch.Tensor | None, selectivity: float
) -> tuple[float, Kept | None]:
    """lambda and the Gram matrix of what is preserved with which the solver charges lam C.

    Args:
        lam: above 0.
        kept: what is preserved, or None.
        ridge: S, :func:`normalized`; None charges the identity, whatever the selectivity.
        selectivity: s, 0 to below 1.

    Raises:
        SolveError: a number out of range.
    """
    check_lambda(lam)
    check_selectivity(selectivity)
    if ridge is None or not selectivity:
        return lam, kept
    charged = ridge * (lam * selectivity)
    if kept is None:
        return lam * (1.0 - selectivity), charged
    gram = gram_of(kept)
    return lam * (1.0 - selectivity), gram + charged.to(gram)
