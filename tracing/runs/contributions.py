"""Attention contribution: how much of what an attention gives the picture comes from some of the text's tokens.

Localisation by attention (LocK: Zarei et al. 2025, "Localizing knowledge in diffusion transformers"): of an attention
with weights A, values V and output map O, the tokens S give the picture's position x

    c(x) = O sum_{s in S} A[x, s] V[s]

and a block's score is the mean length of c over positions, steps and prompts. A is that of the whole attention, of text
and picture together. Here c is the difference of two rows of a batch, in one of which the values of S are zero: A is
made of queries and keys alone, and O is linear. A third row without any values gives the whole, so that blocks whose
output also holds a feed-forward network (Flux's later ones) are on one scale with others.

It takes one run for all blocks, and tells where the picture looks, not what it needs: a trace tells that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...families.attentions import TextAttention, Values
from .interventions import InterventionError, RowIndex, measured_positions, output_of, same_row

ROWS = 3
"""The rows of a batch that measure one run: itself, without the values of the tokens, and without any values."""


@dataclass
class Contribution:
    """What some tokens give the picture in one attention, pass by pass.

    Attributes:
        norms: the mean length of what they give over the picture's positions, in units of the attention's output.
        shares: that length over the mean length of all that the attention gives; 0 where it gives nothing.
    """

    norms: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)

    @property
    def norm(self) -> float:
        """The mean over passes."""
        return sum(self.norms) / len(self.norms)

    @property
    def share(self) -> float:
        """The mean over passes."""
        return sum(self.shares) / len(self.shares)


@contextmanager
def contributions(
    attentions: Sequence[TextAttention], positions: Sequence[int], *, row: int = 0, index: RowIndex = same_row
) -> Iterator[dict[str, Contribution]]:
    """Within the context, forward passes measure what tokens of the text contribute, by the names of the sites.

    Args:
        attentions: of the image model that runs.
        positions: of the tokens, in the text as the image model is given it.
        row: the first of :data:`ROWS` equal rows that the model is given; all give what the first one does.
        index: where a row stands in the batch, and thus the half of the guidance that is measured.

    Raises:
        InterventionError: while the model runs: the rows are not equal.
    """
    found: dict[str, Contribution] = {}
    rows = range(row, row + ROWS)
    with ExitStack() as stack:
        where = measured_positions(stack, [one.site for one in attentions])

        def hook(module: nn.Module, action: Callable[..., Any]) -> None:
            stack.callback(module.register_forward_hook(action).remove)

        for attention in attentions:
            hook(attention.text.module, _without(attention, list(positions), rows, index))
            if attention.picture is not None and attention.picture.module is not attention.text.module:
                hook(attention.picture.module, _emptied(attention.picture, rows, index))
            measured = found.setdefault(attention.site.name, Contribution())
            hook(attention.site.module, _measured(attention.site, measured, rows, index, where))
            if attention.beside is not None:
                hook(attention.beside, lambda module, args, output: _alike(output, rows, index))
        yield found


def _without(attention: TextAttention, positions: list[int], rows: range, index: RowIndex) -> Callable[..., Any]:
    """Sets the tokens' values to zero in the second row and all of the text's in the third."""

    def on_output(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        first, *others = (list(index(one)) for one in rows)
        if any(not torch.equal(args[0][first], args[0][other]) for other in others):
            raise InterventionError(
                f"The rows that measure {attention.site.name} are not equal; give the model {ROWS} times the same."
            )
        output = output.clone()
        for place in others[0]:
            output[place, positions, attention.text.columns] = 0
        output[others[1], :, attention.text.columns] = 0
        return output

    return on_output


def _emptied(values: Values, rows: range, index: RowIndex) -> Callable[..., Any]:
    """Sets all values to zero in the third row."""

    def on_output(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[list(index(rows[2])), :, values.columns] = 0
        return output

    return on_output


def _measured(
    site: Any, into: Contribution, rows: range, index: RowIndex, where: Callable[[Any], slice]
) -> Callable[..., Any]:
    """Notes what the rows differ by, and makes them equal again."""

    def on_output(module: nn.Module, args: Any, output: Any) -> Any:
        given, without, empty = (
            output_of(output, site.output)[list(index(one))][:, where(site)].float() for one in rows
        )
        own, whole = ((given - other).norm(dim=-1).mean() for other in (without, empty))
        into.norms.append(float(own))
        into.shares.append(float(own / whole) if whole > 0 else 0.0)
        return _alike(output, rows, index)

    return on_output


def _alike(output: Any, rows: range, index: RowIndex) -> Any:
    """An output in which all rows are as the first."""
    if isinstance(output, tuple):
        return tuple(_alike(one, rows, index) for one in output)
    if not isinstance(output, torch.Tensor):
        return output
    output = output.clone()
    for other in rows[1:]:
        output[list(index(other))] = output[list(index(rows[0]))]
    return output
