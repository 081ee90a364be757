"""Text states of encoders other than CLIP, as ComfyUI gives them to an image model, and what its doors make of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ....families.doors import Family
from ....quickfix import StateTower, TokenTable
from ....quickfix.encoder.joined_states import joined_sizes
from ....text.prompts import PromptError, PromptTokenizer
from ....text.rows import Row, RowTokenizer
from ..objects import Clip
from .base_weights import plain_numbers
from .model_front import MakeStates
from .row_reader import JoinedReader, PooledReader, RowReader, embeddings_of, part_of

# Tokens of the longest row.
_CONTEXT = 256
# Streams whose vectors make the pooled vector, by family.
_POOLED = {"flux": ("l",), "sd3": ("l", "g"), "newbie": ("jina",)}
# Which pads of a row are read, from 0, where not all are.
_SPREAD = (*range(8), *range(8, 448, 40))
_PADS: dict[str, tuple[int, ...]] = {
    # Wan's are all zeros, of which its network makes one state; those of Cosmos-Predict2 and Ovis stay zeros.
    "wan": (0,),
    "cosmos-predict2": (),
    "ovis": (),
    # Klein's hundreds of pads each read the prompt, and differ by their position alone.
    "flux2-klein-4b": _SPREAD,
    "flux2-klein-9b": _SPREAD,
}
# Tokens of the template's end that the image model is not given.
_TAILS = {"longcat": 5}

Opened = tuple[StateTower, RowTokenizer, RowReader, Callable[[Sequence[str]], torch.Tensor] | None]


def open_row_states(
    clip: Clip,
    family: Family,
    makes: tuple[MakeStates, MakeStates | None],
    embeddings: Callable[[], torch.Tensor] | None = None,
    *,
    tail: int | None = None,
) -> Opened:
    """Read the text states of a CLIP for a family whose text encoder is no CLIP.

    Args:
        makes: make what the doors of the states read, and those of the pooled vector, which may read it as it is.
        embeddings: the embeddings of the counted tokens, where the text encoder is not what has them.
        tail: see :class:`RowReader`; None: the family's own.
    """
    encoder, counted = family.encoders[0], (family.positions or family.encoders)[0]
    pads = _PADS.get(family.name)
    joined = family.layout == "behind"
    behind = _clip_tokenizer(clip, encoder) if joined else None
    tokenizer = row_tokenizer(clip, family, (encoder, counted), pads, behind)
    given = clip, encoder, counted, tokenizer.template_length, makes[0], clip.tokenize("")
    reader: RowReader
    scale = None
    if behind is not None:
        other = part_of(clip.tokenizer, family.encoders[1]).pad_token
        reader, scale = _joined(JoinedReader(*given, behind=behind, beside_pad=other), tokenizer, family)
        read = reader.keys
    else:
        pad = None if pads is None else part_of(clip.tokenizer, counted).pad_token
        reader = RowReader(*given, pad, pads or (), _TAILS.get(family.name, 0) if tail is None else tail)
        read = reader.states
    tower = StateTower.of_rows(
        read,
        tokenizer,
        _token_table(embeddings or (lambda: embeddings_of(clip, counted)), _unreadable(clip, counted)),
        family,
        scale=scale,
        # ComfyUI looks for the template's end to cut it off: such prompts stay whole.
        shortens=family.attention == "causal" and not reader.tail,
    )
    streams = _POOLED.get(family.name, ())
    pooled = (
        PooledReader(clip, streams, reader.empty, makes[1]) if streams and set(streams) <= set(reader.empty) else None
    )
    return tower, tokenizer, reader, pooled


def _joined(reader: JoinedReader, tokenizer: RowTokenizer, family: Family) -> tuple[JoinedReader, torch.Tensor]:
    """The reader, and the scale (width,) of its states, with which the keys of each encoder have one mean square."""
    widths = [embeddings_of(reader.clip, name).shape[1] for name in family.encoders[:2]]
    share, scale = joined_sizes(reader.states, tokenizer, widths)
    return dataclasses.replace(reader, share=share), scale


def _clip_tokenizer(clip: Clip, stream: str) -> PromptTokenizer:
    own = part_of(clip.tokenizer, stream)
    return PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=own.max_length)


def row_tokenizer(
    clip: Clip,
    family: Family,
    streams: tuple[str, str],
    pads: tuple[int, ...] | None = None,
    behind: PromptTokenizer | None = None,
) -> RowTokenizer:
    """Rows as a CLIP tokenizes prompts.

    Args:
        streams: that of the tokens whose states they are, and that by which the states are counted.
        pads, behind: see :class:`RowReader` and :class:`RowTokenizer`.
    """
    encoder, counted = streams
    pad = part_of(clip.tokenizer, counted).pad_token

    def row(text: str) -> Row:
        tokens = clip.tokenize(text)
        (ids, beside) = (plain_ids(tokens[name], text) for name in (counted, encoder))
        length = len(ids)
        while length > 1 and ids[length - 1] == pad:
            length -= 1
        if pads is not None:
            ids = ids[: length + sum(length + offset < len(ids) for offset in pads)]
        return Row(ids, length, beside if encoder != counted else ())

    empty = row("")
    return RowTokenizer(
        row,
        # A user may have every prompt padded to more.
        context_length=max(_CONTEXT, len(empty.ids) + 2 * len(empty.beside)),
        unreadable=_unreadable(clip, counted),
        title=f"The text encoder of {family.title}",
        behind=behind,
    )


def plain_ids(parts: Sequence[Sequence[tuple[Any, ...]]], text: str) -> tuple[int, ...]:
    """The token ids of a prompt's parts (PromptError: one is an embedding)."""
    ids = [token[0] for part in parts for token in part]
    if not all(isinstance(token, int) for token in ids):
        raise PromptError(f"The prompt holds an embedding, which has no tokens of its own: {text!r}. Leave it out.")
    return tuple(ids)


def _unreadable(clip: Clip, stream: str) -> frozenset[int]:
    return unreadable_tokens(part_of(clip.tokenizer, stream))


def unreadable_tokens(own: Any) -> frozenset[int]:
    """The token of letters that have none, of ComfyUI's tokenizer of an encoder; byte-level tokenizers, whose token of
    that name is the pad, have no such letters."""
    unknown = getattr(own.tokenizer, "unk_token_id", None)
    pieces: Any = getattr(own.tokenizer, "tokenizer", None)
    if unknown is None and pieces is not None and hasattr(pieces, "unk_id"):
        unknown = pieces.unk_id()
    return frozenset() if unknown is None or unknown == own.pad_token else frozenset({int(unknown)})


def _token_table(weight: Callable[[], Any], unreadable: frozenset[int]) -> TokenTable:
    """The embeddings of tokens; where they cannot be told, all are alike, and none counts as untrained."""
    try:
        size = int(plain_numbers(weight()[:1], lambda stored: stored).shape[0]) and int(weight().shape[0])
    except (TypeError, ValueError, NotImplementedError, AttributeError, RuntimeError):
        return TokenTable(0, lambda ids: torch.ones(len(ids), 1), unreadable)

    def rows(ids: torch.Tensor) -> torch.Tensor:
        stored = weight()
        return plain_numbers(stored[ids.to(stored.device)], lambda own: own).detach().float().cpu()

    return TokenTable(size, rows, unreadable)
