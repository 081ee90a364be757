"""Text states of encoders other than CLIP, as ComfyUI gives them to an image model, and what its doors make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import torch

from ....families.doors import Family
from ....quickfix import EVERYDAY, StateTower, TokenTable, state_scale
from ....text.prompts import PromptError
from ....text.rows import Row, RowTokenizer, tokens_of
from ..objects import Clip
from .base_weights import plain_numbers
from .model_front import MakeStates

# Tokens of the longest row, prompts encoded at once, everyday captions by which the size of states is known.
_CONTEXT, _BATCH, _SIZED_BY = 256, 8, 16
# CLIP streams whose unprojected or projected vectors make the pooled vector, by family.
_POOLED = {"flux": ("l",)}
ROW_FAMILIES = ("z-image", "qwen-image", "flux", "chroma", "anima", "krea2", "pixart")
"""The families of which this module's way of reading has been compared with what their sampler feeds their doors."""


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
    """

    clip: Clip
    encoder: str
    counted: str
    template: int
    make: MakeStates
    empty: Mapping[str, Any] = field(repr=False)

    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the doors read (n, length, width) in fp32 on the CPU; zeros where the image model is given nothing.

        Raises:
            InterruptProcessingException: the user cancels.
        """
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, row in enumerate(rows):
            own, beside = tokens_of(row)
            # A row with another encoder's tokens stands alone: these are of any length.
            groups.setdefault((len(own), *own[: self.template], *([place] if beside else [])), []).append(place)
        found: torch.Tensor | None = None
        for places in groups.values():
            for start in range(0, len(places), _BATCH):
                comfy.model_management.throw_exception_if_processing_interrupted()
                batch = places[start : start + _BATCH]
                states, first = self._encoded([rows[place] for place in batch])
                if found is None:
                    found = torch.zeros(len(rows), len(rows[0]), states.shape[-1])
                found[batch, first : first + states.shape[1]] = states
        assert found is not None
        return found

    def _encoded(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
        """The states of rows of one length, and the position of the first that the image model is given."""
        own = [tokens_of(row) for row in rows]
        length = len(own[0][0])
        tokens = {**self.empty, self.counted: [_weighted(ids) for ids, _ in own]}
        if self.encoder != self.counted:
            tokens[self.encoder] = [_weighted(beside) for _, beside in own]
        result = self.clip.encode_from_tokens(tokens, return_pooled=True, return_dict=True)
        states = result.pop("cond").float()
        if self.encoder != self.counted:
            return self.make(states, result)[:, :length], 0
        # ComfyUI sets the rows behind each other and cuts the template's beginning off the first of them.
        cut = len(rows) * length - states.shape[1]
        whole = torch.nn.functional.pad(states, (0, 0, cut, 0)).unflatten(1, (len(rows), length))[0]
        return self.make(whole[:, cut:], {}), cut


@dataclass(frozen=True)
class PooledReader:
    """The pooled vectors of prompts, of CLIPs that stand beside the encoder that gives the states."""

    clip: Clip
    streams: tuple[str, ...]
    empty: Mapping[str, Any] = field(repr=False)

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """(n, width) in fp32 on the CPU."""
        # Loads the weights and sets the options, as for a prompt.
        self.clip.encode_from_tokens(self.empty)
        found = []
        for prompt in prompts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            tokens = self.clip.tokenize(prompt)
            vectors = [_module(self.clip, name).encode_token_weights(tokens[name])[1] for name in self.streams]
            found.append(torch.cat([vector.float().cpu() for vector in vectors], dim=-1))
        return torch.cat(found)


def open_row_states(
    clip: Clip, family: Family, make: MakeStates, embeddings: Callable[[], torch.Tensor] | None = None
) -> tuple[StateTower, RowTokenizer, RowReader, Callable[[Sequence[str]], torch.Tensor] | None]:
    """Read the text states of a CLIP for a family of :data:`ROW_FAMILIES`.

    Args:
        make: makes what the doors read.
        embeddings: the embeddings of the counted tokens, where the text encoder is not what has them.
    """
    encoder, counted = family.encoders[0], (family.positions or family.encoders)[0]
    tokenizer = _tokenizer(clip, family, encoder, counted)
    empty = clip.tokenize("")
    reader = RowReader(clip, encoder, counted, tokenizer.template_length, make, empty)
    captions = tokenizer.tokenize_all([prompt for prompt in EVERYDAY if prompt][:_SIZED_BY])
    states = reader.states([prompt.ids for prompt in captions])
    places = torch.arange(states.shape[1])
    starts, ends = (torch.tensor(each)[:, None] for each in zip(*((p.start, p.eos) for p in captions), strict=True))
    tower = StateTower(
        reader.states,
        tokenizer.pad_token,
        states.shape[-1],
        tokenizer.context_length,
        state_scale(states, (places >= starts) & (places <= ends), [states.shape[-1]]),
        _token_table(
            embeddings or (lambda: _module(clip, counted).transformer.get_input_embeddings().weight),
            _unreadable(clip, counted),
        ),
        family.name,
        causal=family.attention == "causal",
        whole=True,
        template=reader.template,
    )
    streams = _POOLED.get(family.name, ())
    pooled = PooledReader(clip, streams, empty) if streams and set(streams) <= set(empty) else None
    return tower, tokenizer, reader, pooled


def _tokenizer(clip: Clip, family: Family, encoder: str, counted: str) -> RowTokenizer:
    pad = _own_tokenizer(clip, counted).pad_token

    def row(text: str) -> Row:
        tokens = clip.tokenize(text)
        (ids, beside) = (_plain_ids(tokens[name], text) for name in (counted, encoder))
        length = len(ids)
        while length > 1 and ids[length - 1] == pad:
            length -= 1
        return Row(ids, length, beside if encoder != counted else ())

    return RowTokenizer(
        row,
        # A user may have every prompt padded to more.
        context_length=max(_CONTEXT, len(row("").ids)),
        unreadable=_unreadable(clip, counted),
        title=f"The text encoder of {family.title}",
    )


def _plain_ids(parts: Sequence[Sequence[tuple[Any, ...]]], text: str) -> tuple[int, ...]:
    ids = [token[0] for part in parts for token in part]
    if not all(isinstance(token, int) for token in ids):
        raise PromptError(f"The prompt holds an embedding, which has no tokens of its own: {text!r}. Leave it out.")
    return tuple(ids)


def _weighted(ids: Sequence[int]) -> list[tuple[int, float]]:
    return [(token, 1.0) for token in ids]


def _own_tokenizer(clip: Clip, stream: str) -> Any:
    return _named(clip.tokenizer, stream)


def _module(clip: Clip, stream: str) -> Any:
    return _named(clip.cond_stage_model, stream)


def _named(owner: Any, stream: str) -> Any:
    """What ComfyUI keeps for a token stream: under its name, or with "clip_" before it."""
    return getattr(owner, stream) if hasattr(owner, stream) else getattr(owner, f"clip_{stream}")


def _unreadable(clip: Clip, stream: str) -> frozenset[int]:
    """The token of letters that have none; byte-level tokenizers, whose token of that name is the pad, have no such
    letters."""
    own = _own_tokenizer(clip, stream)
    unknown = getattr(own.tokenizer, "unk_token_id", None)
    return frozenset() if unknown is None or unknown == own.pad_token else frozenset({int(unknown)})


def _token_table(weight: Callable[[], Any], unreadable: frozenset[int]) -> TokenTable:
    """The embeddings of tokens; where they cannot be told, all are alike, and none counts as untrained."""
    try:
        size = int(plain_numbers(weight()[:1], lambda stored: stored).shape[0]) and int(weight().shape[0])
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        return TokenTable(0, lambda ids: torch.ones(len(ids), 1), unreadable)

    def rows(ids: torch.Tensor) -> torch.Tensor:
        stored = weight()
        return plain_numbers(stored[ids.to(stored.device)], lambda own: own).detach().float().cpu()

    return TokenTable(size, rows, unreadable)
