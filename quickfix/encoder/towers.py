"""What an edit asks of a text encoder: the keys of one linear map, and what stands around them.

:class:`~.tower.TextTower` reads the keys of an attention's output projection inside a CLIP text tower;
:class:`~.states.StateTower` the text states that an image model is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import torch

from ...text.prompts import TokenizedPrompt
from ...text.rows import FILL, without_filling
from ..solver.low_rank import LowRank

Ids = torch.Tensor | Sequence[Sequence[int]]


class TowerError(ValueError):
    """A text encoder, or token ids, that a tower cannot run."""


class AttentionStates(NamedTuple):
    """What one self-attention layer sees and leaves behind, each (captions, positions, width)."""

    inputs: torch.Tensor
    """The input of ``out_proj``: the keys of an edit."""
    residual: torch.Tensor
    """The residual stream right after the attention's output was added."""


def beginnings(tower: Tower, prompts: Sequence[TokenizedPrompt], length: int | None) -> list[Sequence[int]]:
    """The ids of some prompts up to a length, or whole where the tower needs them so, as long as the longest."""
    return without_filling([prompt.ids if tower.whole else prompt.ids[:length] for prompt in prompts])


def up_to(tower: Tower, ids: Ids, ends: torch.Tensor) -> torch.Tensor:
    """The ids (n, length) of some prompts with nothing behind the last position of each that is asked for, ``ends``
    (n,), where the tower takes that."""
    rows = torch.as_tensor(ids, dtype=torch.long)
    return rows.masked_fill(torch.arange(rows.shape[1]) > ends[:, None], FILL) if tower.shortens else rows


class Tower(Protocol):
    """A text encoder, as edits see it; see the two classes for what each member means."""

    @property
    def encoder(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def causal(self) -> bool:
        """Whether a key depends on nothing that stands behind it in its prompt."""
        ...

    @property
    def whole(self) -> bool:
        """Whether a prompt's ids must be given whole, not its beginning alone."""
        ...

    @property
    def shortens(self) -> bool:
        """Whether a prompt's ids may end with :data:`~.text.rows.FILL`, behind all that is asked for."""
        ...

    @property
    def identity(self) -> bool:
        """Whether the linear map is the identity, which is never made as a matrix."""
        ...

    @property
    def width(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    def out_proj_name(self, layer: int) -> str: ...

    def require_layer(self, layer: int) -> None: ...

    def weight(self, name: str) -> torch.Tensor:
        """A weight by its name; there is none where the map is the identity."""
        ...

    def attention_inputs(self, ids: Ids, layer: int, positions: range | None = None) -> torch.Tensor: ...

    def attention_states(self, ids: Ids, layer: int) -> AttentionStates: ...

    def finish(self, residual: torch.Tensor, layer: int) -> torch.Tensor: ...

    def untrained_tokens(self, tokens: Iterable[int]) -> frozenset[int]: ...

    def mean_embeddings(self, rows: Sequence[Sequence[int]]) -> torch.Tensor: ...

    def in_weight(self, update: LowRank) -> LowRank: ...

    def in_keys(self, update: LowRank) -> LowRank: ...
