"""Token embeddings of a text encoder: which tokens say nothing, and what names are like."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

# A token whose embedding so many others have too was never trained; one added for a new name may begin as the copy of
# another. Of a large vocabulary, a sample of the others is looked at.
_SHARED, _SAMPLE, _SHARED_OF_SAMPLE = 8, 1024, 2


@dataclass(frozen=True, eq=False)
class TokenTable:
    """Token embeddings, of which only the rows that are asked for are read.

    Attributes:
        size: how many tokens there are.
        rows: token ids (n,) to their embeddings (n, width) in fp32, all on one device.
        unreadable: tokens that stand for letters without a token; they say nothing.
    """

    size: int
    rows: Callable[[torch.Tensor], torch.Tensor]
    unreadable: frozenset[int] = frozenset()

    @torch.no_grad()
    def untrained(self, tokens: Iterable[int]) -> frozenset[int]:
        """Those of some tokens that say nothing: their embedding is zero, or that of many other tokens too.

        The others are a sample of the vocabulary, so that a table in a file is not read whole.
        """
        ids = torch.tensor(sorted({token for token in tokens if 0 <= token < self.size}), dtype=torch.long)
        if not len(ids):
            return frozenset()
        others = torch.arange(0, self.size, max(1, self.size // _SAMPLE))
        asked, sample = self.rows(ids), self.rows(others)
        _, groups = torch.cat((asked, sample)).unique(dim=0, return_inverse=True)
        asked_groups, sample_groups = groups[: len(ids)], groups[len(ids) :]
        alike = (asked_groups[:, None] == sample_groups).cpu() & (ids[:, None] != others)
        least = _SHARED if len(others) == self.size else _SHARED_OF_SAMPLE
        empty = ~asked.bool().any(1).cpu()
        return frozenset(ids[empty | (alike.sum(1) >= least)].tolist()) | (self.unreadable & frozenset(ids.tolist()))

    @torch.no_grad()
    def means(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The mean embedding of the tokens of each row, at least one in each: (n, width) in fp32."""
        tokens = self.rows(torch.tensor([token for row in rows for token in row], dtype=torch.long))
        counts = torch.tensor([len(row) for row in rows], device=tokens.device)
        sums = tokens.new_zeros(len(rows), tokens.shape[1])
        sums.index_add_(0, torch.arange(len(rows), device=tokens.device).repeat_interleave(counts), tokens)
        return sums / counts[:, None]
