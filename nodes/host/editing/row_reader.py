"""Rows of token ids, encoded by a CLIP object whose text encoder is no CLIP, as an image model's doors read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch

from ....quickfix.encoder.joined_states import joined_keys
from ....quickfix.encoder.states import states_by_group
from ....text.prompts import PromptTokenizer
from ....text.rows import tokens_of
from ..objects import Clip
from .model_front import MakeStates

# Prompts encoded at once.
_BATCH = 8


@dataclass(frozen=True)
class RowReader:
    """Encodes rows of token ids by a CLIP, and makes of the states what the doors of an image model read.

    Attributes:
        clip: the user's own; it is not changed.
        encoder: the token stream whose states they are.
        counted: the token stream whose tokens the states stand for, after ``make``.
        template: how many tokens stand before a text.
        empty: the empty prompt's tokens, for the other streams.
        make: makes what doors read of one conditioning.
        pad: the token that pads a row; None where rows hold all of their padding.
        pads: where a row's pads stand in the padding that ComfyUI makes, from 0.
        tail: how many tokens at a row's end the image model is not given.
    """

    clip: Clip
    encoder: str
    counted: str
    template: int
    make: MakeStates
    empty: Mapping[str, Any] = field(repr=False)
    pad: int | None = None
    pads: tuple[int, ...] = ()
    tail: int = 0

    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the doors read (n, length, width) in fp32 on the CPU; zeros where the image model is given nothing.

        Raises:
            InterruptProcessingException: the user cancels.
        """

        def read(alike: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
            comfy.model_management.throw_exception_if_processing_interrupted()
            return self._encoded(alike)

        return states_by_group(rows, self._alike, read, _BATCH)

    def _alike(self, row: Sequence[int], place: int) -> tuple[int, ...]:
        """What rows have in common that are encoded at once."""
        own, beside = tokens_of(row)
        # A row with another encoder's tokens stands alone: these are of any length.
        return len(own), self._padding(own), *own[: self.template], *([place] if beside else [])

    def _padding(self, own: Sequence[int]) -> int:
        """How many pads stand at a row's end."""
        return next((count for count, token in enumerate(reversed(own)) if token != self.pad), len(own))

    def _encoded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
        """The states of rows of one length, and the position of the first that the image model is given."""
        own = [tokens_of(row) for row in rows]
        tokens: dict[str, Any] = {**self.empty}
        if self.encoder != self.counted:
            tokens[self.counted] = [weighted(ids) for ids, _ in own]
            tokens[self.encoder] = [weighted(beside) for _, beside in own]
            result = self.clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
            return self.make(result.pop("cond").float(), result)[:, : len(own[0][0])], 0
        length, padding = len(own[0][0]), self._padding(own[0][0])
        texts = length - padding
        places = [*range(texts), *(texts + offset for offset in self.pads[:padding])]
        behind = [] if self.pad is None else [self.pad] * (places[-1] + 1 - texts)
        tokens[self.counted] = [weighted([*ids[:texts], *behind] if behind else ids) for ids, _ in own]
        size = len(tokens[self.counted][0])
        states = self.clip.encode_from_tokens(tokens).float()
        # ComfyUI sets the rows behind each other and cuts the template's beginning off the first of them, and its end
        # off the last.
        cut = len(rows) * size - states.shape[1] - self.tail
        whole = torch.nn.functional.pad(states, (0, 0, cut, self.tail)).unflatten(1, (len(rows), size))[0]
        if padding:
            whole = whole[:, places]
        return self.make(whole[:, cut : whole.shape[1] - self.tail], {}), cut


@dataclass(frozen=True)
class JoinedReader(RowReader):
    """T5's states and, behind them, those of two CLIPs side by side, as Stable Diffusion 3 reads them.

    ComfyUI sets CLIP's before T5's. Here T5's stand first, so that prompts are counted by their T5 tokens as with other
    encoders of that kind, and each row's tokens of CLIP-L follow; CLIP-G's are the same with padding of its own.

    Attributes:
        behind: cuts prompts for CLIP-L.
        beside_pad: CLIP-G's padding.
        share: what CLIP's states are multiplied by where they are keys, so that they count like T5's.
    """

    behind: PromptTokenizer = field(kw_only=True)
    beside_pad: int = 0
    share: float = 1.0

    def keys(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """:meth:`states` with CLIP's multiplied by :attr:`share`."""
        return joined_keys(self.states, self.share)(rows)

    def _alike(self, row: Sequence[int], place: int) -> tuple[int, ...]:
        own, beside = tokens_of(row)
        return len(own), len(beside)

    def _encoded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
        pairs = [tokens_of(row) for row in rows]
        counted, behind, size = len(pairs[0][0]), len(pairs[0][1]), self.behind.context_length
        parts = [beside[start : start + size] for _, beside in pairs for start in range(0, behind, size)]
        tokens = {
            self.counted: [weighted(own) for own, _ in pairs],
            "l": [weighted(part) for part in parts],
            "g": [weighted(self._padded(part)) for part in parts],
        }
        states = self.clip.encode_from_tokens(tokens)[0].float().cpu()
        clips, others = states.split([len(rows) * behind, len(rows) * counted])
        return torch.cat((others.unflatten(0, (-1, counted)), clips.unflatten(0, (-1, behind))), dim=1), 0

    def _padded(self, part: Sequence[int]) -> list[int]:
        stop = part.index(self.behind.eos) + 1 if self.behind.eos in part else len(part)
        return [*part[:stop], *[self.beside_pad] * (len(part) - stop)]


@dataclass(frozen=True)
class PooledReader:
    """The pooled vectors of prompts, of CLIPs that stand beside the encoder that gives the states."""

    clip: Clip
    streams: tuple[str, ...]
    empty: Mapping[str, Any] = field(repr=False)
    make: MakeStates | None = None

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """(n, width) in fp32 on the CPU."""
        # Loads the weights and sets the options, as for a prompt.
        self.clip.encode_from_tokens(self.empty)
        found = []
        for prompt in prompts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            tokens = self.clip.tokenize(prompt)
            vectors = [
                part_of(self.clip.cond_stage_model, name).encode_token_weights(tokens[name])[1] for name in self.streams
            ]
            found.append(torch.cat([vector.float().cpu() for vector in vectors], dim=-1))
        joined = torch.cat(found)
        return joined if self.make is None else self.make(joined, {})


def as_they_are(states: torch.Tensor, extras: Mapping[str, Any]) -> torch.Tensor:
    """States in fp32 on the CPU."""
    return states.float().cpu()


def weighted(ids: Sequence[int]) -> list[tuple[int, float]]:
    """Tokens as ComfyUI's encoders take them, each of weight 1."""
    return [(token, 1.0) for token in ids]


def embeddings_of(clip: Clip, stream: str) -> torch.Tensor:
    """The token embeddings of a CLIP's text encoder."""
    weight: torch.Tensor = part_of(clip.cond_stage_model, stream).transformer.get_input_embeddings().weight
    return weight


def part_of(owner: Any, stream: str) -> Any:
    """What ComfyUI keeps for a token stream: under its name, or with "clip_" before it; None where it has none."""
    return getattr(owner, stream) if hasattr(owner, stream) else getattr(owner, f"clip_{stream}", None)
