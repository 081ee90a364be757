"""The text states of Stable Diffusion 1.x, 2.x and SDXL, computed by text towers, without the program that paints.

Stable Diffusion reads the last hidden state of one text encoder after its final layer norm (2.x that of the last layer
but one). SDXL reads the last hidden state but one of two encoders, before that norm, side by side; and as the pooled
vector the projected last state, after the norm, at the end token of the second one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ...text.prompts import PromptTokenizer
from .states import StateTower
from .tower import TextTower
from .towers import TowerError

# Prompts that run through a tower at once: bounds the memory.
_BATCH = 64


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

    def states(self, rows: torch.Tensor) -> torch.Tensor:
        """The states (n, length, width) of some prompts, token ids (n, length)."""
        layers = self.tower.num_layers - self.reading.unread
        return dataclasses.replace(self.tower, num_layers=layers).hidden_states(rows, normed=self.reading.normed)


@dataclass(frozen=True)
class PromptStates:
    """The text states and pooled vectors of prompts, by the text encoders of one image model.

    Attributes:
        streams: the text encoders, in the order in which their states stand side by side.
        tokenizer: cuts prompts for all of them; only the padding differs.
        family: of the image model, a key of :data:`READINGS`.
        projection: gives the matrix (vector, width) that makes the pooled vector of the last encoder's state; None
            where the family reads none.
    """

    streams: tuple[Stream, ...]
    tokenizer: PromptTokenizer
    family: str
    projection: Callable[[], torch.Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.streams[0].tower.device

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Text states (n, length, width) of prompts of one length, of which the ends may be cut away."""
        return torch.cat(
            [torch.cat([one.states(self._padded(part, one)) for one in self.streams], dim=-1) for part in _parts(rows)]
        )

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """The pooled vectors (n, vector) of some prompts.

        Raises:
            TowerError: the model reads no pooled vector; a projection of another width than the text encoder's.
        """
        if self.projection is None:
            raise TowerError("This model reads no pooled vector of its prompts.")
        last = self.streams[-1]
        tokens = self.tokenizer.tokenize_all(list(prompts))
        found = []
        for part in _parts([prompt.ids for prompt in tokens]):
            ends = torch.tensor([row.index(self.tokenizer.eos) for row in part], device=self.device)
            rows = self._padded([row[: int(ends.max()) + 1] for row in part], last)
            states = last.tower.hidden_states(rows)
            found.append(states[torch.arange(len(ends), device=self.device), ends])
        matrix = self.projection().to(self.device, torch.float32)
        if matrix.ndim != 2 or matrix.shape[1] != last.tower.width or not torch.isfinite(matrix).all():
            raise TowerError(
                f"The text projection has shape {tuple(matrix.shape)} or holds NaN or infinity; expected a matrix for "
                f"states {last.tower.width} wide."
            )
        return torch.cat(found) @ matrix.T

    def tower(self) -> StateTower:
        """The states as a tower (:meth:`StateTower.of_prompts` for the errors)."""
        return StateTower.of_prompts(
            self.states,
            self.tokenizer,
            [one.tower.width for one in self.streams],
            self.streams[0].tower.token_table(),
            self.family,
            device=self.device,
            shortens=True,
        )

    def _padded(self, rows: Sequence[Sequence[int]], stream: Stream) -> torch.Tensor:
        """Token ids with an encoder's own padding behind each first end token."""
        ids = torch.tensor(rows, dtype=torch.long)
        ended = (ids == self.tokenizer.eos).cumsum(1)
        behind = (ended > 1) | ((ended == 1) & (ids != self.tokenizer.eos))
        return ids.masked_fill(behind, stream.pad_token)


def _parts(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    for start in range(0, len(rows), _BATCH):
        yield list(rows[start : start + _BATCH])
