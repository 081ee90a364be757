"""The text states of Stable Diffusion 1.x, 2.x and SDXL, computed by text towers, without the program that paints.

Stable Diffusion reads the last hidden state of one text encoder after its final layer norm (2.x that of the last layer
but one). SDXL reads the last hidden state but one of two encoders, before that norm, side by side; and as the pooled
vector the projected last state, after the norm, at the end token of the second one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from ...text.prompts import PromptTokenizer
from ...text.rows import FILL
from .prefixes import PrefixStates
from .states import StateTower
from .tower import TextTower, solving_device
from .towers import TowerError


class Reading(NamedTuple):
    """How a family of image models reads one of its text encoders."""

    encoder: str
    """A key of :data:`~.families.clip.ENCODERS`."""
    unread: int
    """Layers, the last ones, that are not run for the states."""
    normed: bool
    """Whether the states are read after the final layer norm."""


# Of each family, its text encoders in the order in which their states stand. The last layer of Stable Diffusion 2.x is
# not read either; diffusers' folders lack it (``Encoder.skipped``).
READINGS: dict[str, tuple[Reading, ...]] = {
    "sd1": (Reading("clip_l", 0, True),),
    "sd2": (Reading("clip_h", 0, True),),
    "sdxl": (Reading("sdxl_clip_l", 1, False), Reading("sdxl_clip_g", 1, False)),
    "sdxl-refiner": (Reading("sdxl_clip_g", 1, False),),
}


@dataclass(frozen=True)
class Stream:
    """A text encoder as one of those that an image model reads.

    Attributes:
        tower: with all of its layers.
        pad_token: stands behind a prompt's end token in this encoder.
        reading: what is read of it.
    """

    tower: TextTower
    pad_token: int
    reading: Reading

    @property
    def depth(self) -> tuple[int, bool]:
        """After how many layers its states are read, and whether after the final layer norm."""
        return self.tower.num_layers - self.reading.unread, self.reading.normed


@dataclass(frozen=True)
class PromptStates:
    """The text states and pooled vectors of prompts, by the text encoders of one image model.

    Attributes:
        streams: the text encoders, in the order in which their states stand side by side.
        tokenizer: cuts prompts for all of them; only the padding differs.
        family: of the image model, a key of :data:`READINGS`.
        projection: gives the matrix (vector, width) that makes the pooled vector of the last encoder's state; None
            where the family reads none.
        known: what is known already of what is asked for; see :meth:`remembering`.
    """

    streams: tuple[Stream, ...]
    tokenizer: PromptTokenizer
    family: str
    projection: Callable[[], torch.Tensor] | None = None
    known: PrefixStates | None = field(default=None, repr=False)

    def remembering(self) -> PromptStates:
        """The same, with each beginning of a prompt computed once in all: for the time of an edit, in which the text
        encoders do not change."""
        return dataclasses.replace(self, known=PrefixStates(self._read, self.tokenizer.eos))

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.streams[0].tower.device

    @property
    def width(self) -> int:
        """Of the states."""
        return sum(one.tower.width for one in self.streams)

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Text states (n, length, width) of prompts of one length, of which the ends may be cut away or
        :data:`~.text.rows.FILL`."""
        return self._prefixes().states(rows)[..., : self.width].to(solving_device(self.device))

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """The pooled vectors (n, vector) of some prompts.

        Raises:
            TowerError: the model reads no pooled vector; a projection of another width than the text encoder's.
        """
        if self.projection is None:
            raise TowerError("This model reads no pooled vector of its prompts.")
        found = self.tokenizer.tokenize_all(list(prompts))
        ends = torch.tensor([prompt.ids.index(self.tokenizer.eos) for prompt in found])
        longest = int(ends.max()) + 1
        rows = torch.tensor([prompt.ids[:longest] for prompt in found])
        rows = rows.masked_fill(torch.arange(longest) > ends[:, None], FILL)
        states = self._prefixes().states(rows.tolist())[torch.arange(len(ends)), ends, self.width :]
        matrix = self.projection().to(states.device, torch.float32)
        if matrix.ndim != 2 or matrix.shape[1] != states.shape[1] or not torch.isfinite(matrix).all():
            raise TowerError(
                f"The text projection has shape {tuple(matrix.shape)} or holds NaN or infinity; expected a matrix for "
                f"states {states.shape[1]} wide."
            )
        return (states @ matrix.T).to(solving_device(self.device))

    def tower(self) -> StateTower:
        """The states as a tower (:meth:`StateTower.of_prompts` for the errors)."""
        return StateTower.of_prompts(
            self.states,
            self.tokenizer,
            [one.tower.width for one in self.streams],
            self.streams[0].tower.token_table(),
            self.family,
            device=solving_device(self.device),
            shortens=True,
        )

    def _prefixes(self) -> PrefixStates:
        return self.known or PrefixStates(self._read, self.tokenizer.eos)

    def _read(
        self, tokens: torch.Tensor, behind: torch.Tensor, places: torch.Tensor, lookup: torch.Tensor
    ) -> torch.Tensor:
        """The states of some beginnings, each encoder with its own padding, and the last one's final states behind them
        where a pooled vector is made of these."""
        found = []
        for stream in self.streams:
            depths = [stream.depth]
            if self.projection is not None and stream is self.streams[-1]:
                depths.append((stream.tower.num_layers, True))
            ids = tokens.masked_fill(behind, stream.pad_token)
            found += stream.tower.prefix_states(ids, places, lookup, depths)
        return torch.cat(found, dim=-1)
