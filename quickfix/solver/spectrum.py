"""Lambda chosen by what it does: efficacy against drift for every lambda, from one eigendecomposition.

With G = K D K^T + beta P P^T = Q diag(g) Q^T and X = R D K^T (see ``closed_form.py``), the edit at any lambda is

    delta(lambda) = X Q diag(h) Q^T,   h_j = 1 / (lambda + g_j)

and how far it moves some keys E is a quadratic form, ||delta(lambda) E||^2 = h^T ((XQ)^T XQ * Q^T E E^T Q) h. Once
those d x d forms are made, a further lambda costs one multiplication by each of them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .closed_form import SolveError, Statistics, check_lambda
from .nullspace import HeldSpan
from .preserved import Kept, gram_of

# Eight a decade: the knee is found to within a third.
LAMBDAS = tuple(10.0 ** (step / 8) for step in range(-32, 25))
# The drift that costs as much as the whole efficacy is worth.
DRIFT_LIMIT = 0.1


@dataclass(frozen=True)
class LambdaCurve:
    """What an edit reaches and what it costs, over lambda.

    Attributes:
        lambdas: in rising order.
        efficacy: as in the edit's report.
        drift: root mean square over everyday prompts of their relative change, or the empty prompt's if that is more.
        condition: condition number of the system solved.
        knee: index of the best lambda (see :attr:`best`).
    """

    lambdas: tuple[float, ...]
    efficacy: tuple[float, ...]
    drift: tuple[float, ...]
    condition: tuple[float, ...]
    knee: int

    @property
    def best(self) -> float:
        """The lambda of most :func:`worth`: up to the knee, less lambda buys more efficacy than it costs."""
        return self.lambdas[self.knee]

    def text(self) -> str:
        """The best lambda, and the curve as a small table, the knee marked."""
        lines = [f"Best lambda: {self.best:.4g}", "lambda       efficacy   drift    condition"]
        shown = sorted({*range(0, len(self.lambdas), max(1, len(self.lambdas) // 14)), self.knee})
        for i in shown:
            lines.append(
                f"{self.lambdas[i]:<12.4g} {self.efficacy[i]:7.1%} {self.drift[i]:8.2%} {self.condition[i]:11.1e}"
                + (" <- knee" if i == self.knee else "")
            )
        lines.append(
            "Below the knee, a little more efficacy costs more drift than it is worth (a drift of "
            f"{DRIFT_LIMIT:.0%} weighs as much as all of the concept)."
        )
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, ready for JSON."""
        return {
            **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()},
            "best": self.best,
        }


def worth(gain: float, drift: float) -> float:
    """gain - drift / 0.1, what an edit is worth: a drift of 10 %, a harmful one, costs as much as a whole concept."""
    return gain - drift / DRIFT_LIMIT


class Spectrum:
    """An edit at every lambda.

    Args:
        sums: the statistics of all pairs.
        kept, held: as for :func:`solve_residuals`.

    Raises:
        HeldError: the keys lie in the held span.
    """

    def __init__(
        self,
        sums: Statistics,
        *,
        kept: Kept | None = None,
        held: HeldSpan | None = None,
    ) -> None:
        free = sums.projected(held)
        gram = free.gram if kept is None else free.gram + gram_of(kept).to(free.gram)
        values, self._basis = torch.linalg.eigh(gram)
        self._values = values.clamp_min(0.0)
        self._held = held
        self._keys = self.turned(free.gram)
        self._take(free)

    def toward(self, sums: Statistics) -> Spectrum:
        """The spectrum of the same keys with other values; the decomposition is shared.

        Args:
            sums: the statistics of the same keys, with the other residuals.
        """
        other = copy.copy(self)
        other._take(sums.projected(self._held))
        return other

    def _take(self, free: Statistics) -> None:
        self._cross = free.cross @ self._basis
        self._products = self._cross.T @ self._cross
        self._edited = self.form_of_turned(self._keys)
        self._energy = free.energy

    def turned(self, gram: torch.Tensor) -> torch.Tensor:
        """The Gram matrix E E^T (d, d) of some keys in the basis of the decomposition, Q^T E E^T Q."""
        return self._basis.T @ gram.to(self._basis) @ self._basis

    def form(self, gram: torch.Tensor) -> torch.Tensor:
        """For keys E with Gram matrix E E^T (d, d): the matrix B (d, d) with ||delta(lambda) E||^2 = h^T B h."""
        return self.form_of_turned(self.turned(gram))

    def form_of_turned(self, turned: torch.Tensor) -> torch.Tensor:
        """:meth:`form` of a Gram matrix that is :meth:`turned` already."""
        return self._products * turned

    def moved(self, form: torch.Tensor, lam: float) -> float:
        """||delta(lambda) E|| for a form of E."""
        h = self._weights(lam)
        return math.sqrt(max(0.0, float(h @ form @ h)))

    def efficacy(self, lam: float) -> float:
        """1 - ||W K - V|| / ||W0 K - V||, as in the edit's report."""
        h = self._weights(lam)
        left = self._energy - 2 * float(h @ self._products.diagonal()) + float(h @ self._edited @ h)
        return 1.0 if not self._energy else min(1.0, max(0.0, 1.0 - math.sqrt(max(0.0, left) / self._energy)))

    def condition(self, lam: float) -> float:
        """Condition number of lambda I + G."""
        return float((lam + self._values[-1]) / (lam + self._values[0]))

    def delta(self, lam: float) -> torch.Tensor:
        """The dense update at one lambda, (d_out, d_in) in fp64."""
        return (self._cross * self._weights(lam)) @ self._basis.T

    def _weights(self, lam: float) -> torch.Tensor:
        check_lambda(lam)
        return 1.0 / (lam + self._values)


def trace_lambda(
    spectrum: Spectrum, drifting: Sequence[torch.Tensor], lambdas: Sequence[float] = LAMBDAS
) -> LambdaCurve:
    """Efficacy against drift over lambda.

    Args:
        drifting: Gram matrices (d, d) of keys scaled so that ||delta E|| is a drift; the largest counts.
        lambdas: above 0, at least one, in rising order.

    Raises:
        SolveError: no lambdas, one not above 0, or not in rising order.
    """
    return trace_turned(spectrum, [spectrum.turned(gram) for gram in drifting], lambdas)


def trace_turned(spectrum: Spectrum, turned: Sequence[torch.Tensor], lambdas: Sequence[float] = LAMBDAS) -> LambdaCurve:
    """:func:`trace_lambda` for Gram matrices that are :meth:`Spectrum.turned` already."""
    lambdas = tuple(float(lam) for lam in lambdas)
    if not lambdas or list(lambdas) != sorted(set(lambdas)):
        raise SolveError(f"lambdas are {lambdas}; expected at least one, in rising order.")
    forms = [spectrum.form_of_turned(gram) for gram in turned]
    efficacy = tuple(spectrum.efficacy(lam) for lam in lambdas)
    drift = tuple(max((spectrum.moved(form, lam) for form in forms), default=0.0) for lam in lambdas)
    condition = tuple(spectrum.condition(lam) for lam in lambdas)
    knee = max(range(len(lambdas)), key=lambda i: worth(efficacy[i], drift[i]))
    return LambdaCurve(lambdas, efficacy, drift, condition, knee)
