"""The text states of an image model, put together from its text encoders and its own modules, wherever these lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch

from ....families.doors import Door, DoorError, Family
from ....text.prompts import PromptTokenizer
from ....text.rows import RowTokenizer
from ..decoder_tower import DecoderTower
from ..joined_states import JoinedStates
from ..prompt_states import READINGS, PromptStates, Reading, Stream
from ..row_states import UNKNOWN, RowReading, RowStates
from ..t5_tower import T5Tower
from ..token_table import TokenTable
from ..tower import TextTower
from .fusion import tree_of
from .made import Weights, front_widths, make_front

# Of Stable Diffusion 3 the two CLIPs are read as SDXL's are.
CLIPS = READINGS["sdxl"]
_VECTOR = Reading("clip_l", 0, True)


class ClipPart(NamedTuple):
    """A CLIP that is read beside another text encoder.

    Attributes:
        tower: with all of its layers.
        pad_token: stands behind a prompt's end token.
        tokenizer: cuts prompts for it.
        projection: gives the matrix (vector, width) that makes the pooled vector of its end state; None: the state.
    """

    tower: TextTower
    pad_token: int
    tokenizer: PromptTokenizer
    projection: Callable[[], torch.Tensor] | None = None

    @property
    def vector_width(self) -> int:
        """Of its pooled vector."""
        return self.tower.width if self.projection is None else self.projection().shape[0]

    def vectors(self, family: str) -> PromptStates:
        """What gives its pooled vectors."""
        width = self.tower.width
        stream = Stream(self.tower, self.pad_token, _VECTOR)
        return PromptStates((stream,), self.tokenizer, family, self.projection or (lambda: torch.eye(width)))


def open_states(
    family: Family,
    reading: RowReading,
    text: DecoderTower | T5Tower,
    tokenizer: RowTokenizer,
    weights: Weights,
    clips: Sequence[ClipPart] = (),
) -> RowStates | JoinedStates:
    """The text states of an image model that reads another text encoder than CLIP.

    Args:
        tokenizer: makes rows of prompts; has one for the states behind, where there are two CLIPs.
        weights: the image model's parameters, by name.
        clips: those that are read beside the text encoder.
    """
    table = None
    if reading.beside:
        embeddings = weights["llm_adapter.embed.weight"]
        table = TokenTable(
            embeddings.shape[0], lambda ids: embeddings[ids.to(embeddings.device)].float(), frozenset({UNKNOWN})
        )
    make = make_front(family, weights, text.device)
    vectors = tuple(clip.vectors(family.name) for clip in clips)
    states = RowStates(text, tokenizer, family, reading, make, table, taps=_taps(family, weights))
    if tokenizer.behind is None:
        return dataclasses.replace(states, clip=vectors[0]) if vectors else states
    streams = tuple(Stream(clip.tower, clip.pad_token, one) for clip, one in zip(clips, CLIPS, strict=True))
    return JoinedStates(states, PromptStates(streams, tokenizer.behind, family.name), vectors)


def require_text(family: Family, shapes: Mapping[str, tuple[int, ...]], text: DecoderTower | T5Tower) -> int:
    """How wide the states are that the doors read, of an image model whose parameters have some shapes.

    Raises:
        DoorError: the text encoder does not belong to it.
    """
    wanted, taps, width = front_widths(family, shapes, text.width)
    if wanted != text.width:
        raise DoorError(
            f"{family.title} reads text states {wanted} wide, the text encoder gives {text.width}. They do not belong "
            "together."
        )
    if text.num_layers % taps:
        raise DoorError(
            f"{family.title} reads {taps} layers of its text encoder; this one has {text.num_layers}, which are not so "
            "many times a number. They do not belong together."
        )
    return width


def require_width(doors: Sequence[Door], width: int) -> None:
    """Refuse doors that read text states of another width than the text encoders give (DoorError)."""
    for door in doors:
        if door.kind != "pooled" and door.width != width:
            raise DoorError(
                f"{door.name} reads text states {door.width} wide, the text encoders give {width}. They do not belong "
                "together."
            )


def _taps(family: Family, weights: Weights) -> int:
    return int(weights[tree_of(weights).projector].shape[1]) if family.name == "krea2" else 1
