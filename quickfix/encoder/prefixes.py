"""States of a causal text encoder, of which each beginning of a prompt is computed once.

A state depends on the tokens up to its own and on nothing behind them. So captions of one template share the states of
its first words, prompts that an edit names again and again are known from the first time on, and nothing is computed
behind the last position that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ...text.rows import FILL

# Beginnings that run through an encoder at once, and bytes of states that are kept: both bound the memory.
_AT_ONCE, _KEPT = 4096, 1 << 28
# Tokens (m,), whether they stand behind a prompt's end (m,), their positions (m,), and rows (n, length) of beginnings,
# each one token longer than that before it, to the states (m, width).
ReadPrefixes = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class PrefixStates:
    """States by beginnings of prompts, as long as the encoder does not change.

    Args:
        read: computes the states of distinct beginnings.
        eos: the token that ends a prompt; what stands behind it is padding.
    """

    def __init__(self, read: ReadPrefixes, eos: int) -> None:
        self._read, self._eos = read, eos
        self._forget()

    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The states (n, length, width) of at least one prompt, all of one length; zeros where a row holds
        :data:`~.text.rows.FILL`, which stands behind all that is asked for.
        """
        known = self._known
        if known is not None and known.nbytes > _KEPT:
            self._forget()
        numbers = [self._walk(row) for row in rows]
        try:
            self._compute(numbers)
        except BaseException:
            # What is numbered must be known.
            self._forget()
            raise
        assert self._known is not None
        longest = max(map(len, rows))
        index = torch.tensor([row + [FILL] * (longest - len(row)) for row in numbers])
        there = (index != FILL).to(self._known.device)
        return self._known[index.clamp_min(0).to(self._known.device)] * there[..., None]

    def _forget(self) -> None:
        self._numbers: dict[tuple[int, int], int] = {}
        self._tokens: list[int] = []
        self._behind: list[bool] = []
        self._places: list[int] = []
        self._known: torch.Tensor | None = None

    def _walk(self, row: Sequence[int]) -> list[int]:
        """The number of the beginning that ends with each token of a row."""
        found: list[int] = []
        before = FILL
        for place, token in enumerate(row):
            if token == FILL:
                break
            number = self._numbers.setdefault((before, token), len(self._tokens))
            if number == len(self._tokens):
                self._tokens.append(token)
                self._places.append(place)
                self._behind.append(place > 0 and (self._behind[before] or self._tokens[before] == self._eos))
            found.append(number)
            before = number
        return found

    def _compute(self, numbers: Sequence[list[int]]) -> None:
        """Make all beginnings known."""
        known = 0 if self._known is None else len(self._known)
        if known == len(self._tokens):
            return
        # A beginning is numbered before all that go on from it.
        fresh = [row for row in numbers if row and row[-1] >= known]
        made: torch.Tensor | None = None
        batch: list[list[int]] = []
        size = 0
        for row in [*fresh, []]:
            if batch and (not row or size + len(row) > _AT_ONCE):
                made = self._batch(batch, known, made)
                batch, size = [], 0
            batch.append(row)
            size += len(row)
        assert made is not None
        self._known = made if self._known is None else torch.cat((self._known, made))

    def _batch(self, rows: Sequence[list[int]], known: int, made: torch.Tensor | None) -> torch.Tensor:
        """The states of all new beginnings, with those of some rows filled in."""
        longest = max(map(len, rows))
        # Behind a row's end stands its first beginning: nothing before it attends to it.
        filled = torch.tensor([row + [row[0]] * (longest - len(row)) for row in rows])
        distinct, lookup = filled.unique(return_inverse=True)
        tokens, behind, places = (
            torch.tensor(column)[distinct] for column in (self._tokens, self._behind, self._places)
        )
        states = self._read(tokens, behind, places, lookup)
        if made is None:
            made = states.new_zeros(len(self._tokens) - known, states.shape[1])
        new = (distinct >= known).to(states.device)
        made[distinct.to(states.device)[new] - known] = states[new]
        return made
