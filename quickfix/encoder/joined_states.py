"""T5's states and, behind them, those of two CLIPs side by side, as Stable Diffusion 3 reads them.

The image model is given CLIP's before T5's. Here T5's stand first, so that prompts are counted by their T5 tokens as
with other encoders of that kind, and each row's tokens of CLIP-L follow; CLIP-G's are the same with padding of its own.
The image model reads no positions of the text, so that the order is nothing to it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from ...families.doors import Family
from ...text.rows import FILL, RowTokenizer, tokens_of
from .prompt_states import PromptStates
from .row_states import RowStates
from .states import ReadStates, StateTower, everyday_states, state_scale
from .towers import TowerError


@dataclass(frozen=True)
class JoinedStates:
    """The text states of prompts, by T5 and two CLIPs.

    Attributes:
        counted: T5's part: its states and the rows of both.
        clips: CLIP-L's states and CLIP-G's, side by side.
        vectors: give the parts of the pooled vector, in order.
    """

    counted: RowStates
    clips: PromptStates
    vectors: tuple[PromptStates, ...]

    @property
    def tokenizer(self) -> RowTokenizer:
        """Makes the rows."""
        return self.counted.tokenizer

    @property
    def family(self) -> Family:
        """Of the image model."""
        return self.counted.family

    def remembering(self) -> JoinedStates:
        """The same, with each beginning of a prompt of CLIP's computed once in all."""
        vectors = tuple(one.remembering() for one in self.vectors)
        return dataclasses.replace(self, clips=self.clips.remembering(), vectors=vectors)

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the doors read (n, length, width): T5's states, behind them CLIP's, filled up with zeros to T5's width.

        Raises:
            TowerError: CLIPs that are wider than T5 together.
        """
        pairs = [tokens_of(row) for row in rows]
        first = self.counted.states(
            [[*own, *[FILL] * (len(row) - len(own))] for row, (own, _) in zip(rows, pairs, strict=True)]
        )
        size = self.clips.tokenizer.context_length
        parts = [beside[at : at + size] for _, beside in pairs for at in range(0, len(beside), size)]
        missing = first.shape[-1] - self.clips.width
        if missing < 0:
            raise TowerError(
                f"The CLIPs' states are {self.clips.width} wide, T5's {first.shape[-1]}; expected T5's to be wider."
            )
        behind = iter(F.pad(self.clips.states(parts), (0, missing)).to(first.device) if parts else ())
        for row, (own, beside) in zip(first, pairs, strict=True):
            for at in range(len(own), len(own) + len(beside), size):
                row[at : at + size] = next(behind)
        return first

    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """The pooled vectors (n, width): CLIP-L's beside CLIP-G's."""
        return torch.cat([one.pooled(prompts) for one in self.vectors], dim=-1)

    def tower(self) -> StateTower:
        """The states as a tower (:meth:`StateTower.of_rows` for the errors)."""
        widths = [one.tower.width for one in self.clips.streams]
        share, scale = joined_sizes(self.states, self.tokenizer, widths)
        return self.counted.tower(joined_keys(self.states, share), scale)


def joined_keys(read: ReadStates, share: float) -> ReadStates:
    """The same states with those behind the counted ones multiplied by a number, so that they count like these."""

    def keys(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        states = read(rows)
        for row, own in zip(rows, states, strict=True):
            own[len(tokens_of(row)[0]) :] *= share
        return states

    return keys


def joined_sizes(read: ReadStates, tokenizer: RowTokenizer, widths: Sequence[int]) -> tuple[float, torch.Tensor]:
    """What the states behind the counted ones are multiplied by where they are keys, and the scale (width,) of all.

    With both the keys of each encoder have one mean square.

    Args:
        tokenizer: has a tokenizer of the states behind.
        widths: of the parts of the states behind, which zeros fill up.
    """
    assert tokenizer.behind is not None
    captions, states, counted = everyday_states(read, tokenizer)
    behind = torch.zeros_like(counted)
    for row, tokens in enumerate(tokenizer.behind.tokenize_all([caption.text for caption in captions])):
        first = len(tokens_of(captions[row].ids)[0])
        behind[row, first + tokens.start : first + tokens.eos + 1] = True
    parts = [part for part in (*widths, states.shape[-1] - sum(widths)) if part]
    # First one size for the parts of a state, then one for the states of each kind.
    share = _ratio(states, (counted, behind))[0]
    states[behind] *= share
    scale = state_scale(states, counted | behind, parts)
    ratio, size = _ratio(states * scale, (counted, behind))
    return share * ratio, scale / size


def _ratio(states: torch.Tensor, kinds: tuple[torch.Tensor, torch.Tensor]) -> tuple[float, float]:
    """How many times larger the states of one kind are than those of another, and how large they are."""
    sizes = [float(states[places].double().square().sum(1).mean().sqrt()) for places in kinds]
    return (sizes[0] / sizes[1], sizes[0]) if min(sizes) > 0 else (1.0, 1.0)
