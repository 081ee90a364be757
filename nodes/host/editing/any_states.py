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
from .row_reader import RowReader, as_they_are
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
        found = _family_of(clip, stream)
        if found is not None:
            tower, tokenizer, reader, _ = open_row_states(clip, found[0], (as_they_are, None), tail=found[1])
            return tower, tokenizer, reader, None if plain[1] is None else AnyPooled(clip)
    return None


def _family_of(clip: Clip, stream: str) -> tuple[Family, int] | None:
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


def _measured(reader: RowReader, tokenizer: RowTokenizer, family: Family) -> tuple[Family, int] | None:
    """The kind of attention, and how many states are cut off at a prompt's end."""
    prompts = tokenizer.tokenize_all(_CAPTIONS)
    own = [tokens_of(prompt.ids)[0] for prompt in prompts]
    given = [reader.clip.encode_from_tokens(reader.clip.tokenize(text)).float().cpu() for text in _CAPTIONS]
    if any(one.ndim != 3 or len(one) != 1 or one.shape[1] > len(ids) for one, ids in zip(given, own, strict=True)):
        return None
    changed = next(place for place, pair in enumerate(zip(*own, strict=False)) if pair[0] != pair[1])
    one, other = (states[0, : min(states.shape[1] for states in given)] for states in given)
    moved = ((one - other).norm(dim=1) > _MOVED * one.norm(dim=1).amax()).nonzero().flatten().tolist()
    missing = len(own[0]) - given[0].shape[1]
    if not moved or (missing and not changed - missing <= moved[0] <= changed):
        return None
    cut = changed - moved[0] if missing else 0
    reader = dataclasses.replace(reader, tail=missing - cut)
    read = reader.states([prompts[0].ids])[0, cut : cut + given[0].shape[1]]
    if float((read - given[0][0]).norm()) > _SAME * float(given[0].norm()):
        return None
    # With some cut off, only the place where states begin to differ tells which token each is of: of one whose tokens
    # read all others it is the first of all.
    causal = moved[0] + cut == changed and (not missing or moved[0] > 0)
    if missing and not causal:
        return None
    return dataclasses.replace(family, attention="causal" if causal else "bidirectional"), missing - cut
