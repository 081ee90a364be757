"""The text states of any CLIP that gives one state for each token, for edits of a conditioning alone.

What such a text encoder is, is found out by encoding a few captions: which of its token streams the states are of,
whether a token's state depends on what stands behind it, and how much of the beginning is cut off.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import comfy.model_management
import torch

from ....families.doors import CONDITIONING, Family
from ....text.prompts import PromptError
from ....text.rows import RowTokenizer, tokens_of
from ..objects import Clip
from .row_reader import RowReader
from .row_states import Opened, open_row_states, row_tokenizer

# They differ in one word alone, so that what depends on it is seen.
_CAPTIONS = ("a photo of a cat, at night", "a photo of a dog, at night")
# How far states may differ that are encoded in another batch, relative to their size.
_SAME = 1e-2
# How far a state must move to depend on another word. To take an encoder for one whose tokens read all others, which it
# is not, does no harm: states that agree in both captions are not edited.
_MOVED = 1e-5


@dataclass(frozen=True)
class AnyPooled:
    """The pooled vectors of prompts, as a conditioning holds them."""

    clip: Clip

    def __call__(self, prompts: Sequence[str]) -> torch.Tensor:
        """(n, width) in fp32 on the CPU."""
        found = []
        for prompt in prompts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            pooled = self.clip.encode_from_tokens(self.clip.tokenize(prompt), return_pooled=True)[1]
            found.append(pooled.float().cpu())
        return torch.cat(found)


def open_any_rows(clip: Clip) -> Opened | None:
    """Read the text states of a CLIP by the token stream of which they are; None where there is no such stream."""
    plain = clip.encode_from_tokens(clip.tokenize(_CAPTIONS[0]), return_pooled=True)
    for stream in clip.tokenize(""):
        family = _family_of(clip, stream)
        if family is not None:
            tower, tokenizer, reader, _ = open_row_states(clip, family, (as_they_are, None))
            return tower, tokenizer, reader, None if plain[1] is None else AnyPooled(clip)
    return None


def as_they_are(states: torch.Tensor, extras: object) -> torch.Tensor:
    """States in fp32 on the CPU."""
    return states.float().cpu()


def _family_of(clip: Clip, stream: str) -> Family | None:
    """What the states of a token stream are like; None where they are not one for each of its tokens."""
    family = dataclasses.replace(CONDITIONING, encoders=(stream,))
    try:
        tokenizer = row_tokenizer(clip, family, (stream, stream))
        reader = RowReader(clip, stream, stream, tokenizer.template_length, as_they_are, clip.tokenize(""))
        return _measured(reader, tokenizer, family)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, LookupError, AttributeError, TypeError, PromptError):
        # The stream's tokens alone make no states, or not one each.
        return None


def _measured(reader: RowReader, tokenizer: RowTokenizer, family: Family) -> Family | None:
    rows = [prompt.ids for prompt in tokenizer.tokenize_all(_CAPTIONS)]
    own = [tokens_of(row)[0] for row in rows]
    one, other = reader.states(rows)
    given = reader.clip.encode_from_tokens(reader.clip.tokenize(_CAPTIONS[0])).float().cpu()
    if given.ndim != 3 or len(given) != 1 or given.shape[1] > len(own[0]):
        return None
    cut = len(own[0]) - given.shape[1]
    read = one[cut : len(own[0])]
    if read.shape != given[0].shape or not float((read - given[0]).norm()) <= _SAME * float(given.norm()):
        return None
    changed = next(place for place, (a, b) in enumerate(zip(*own, strict=False)) if a != b)
    moved = ((one - other).norm(dim=1) > _MOVED * one.norm(dim=1).amax()).nonzero().flatten().tolist()
    if not moved:
        return None
    causal = moved[0] == changed
    # With a beginning cut off, only the place where states begin to differ tells which token each is of.
    if cut and not causal:
        return None
    return dataclasses.replace(family, attention="causal" if causal else "bidirectional")
