"""The text states that ComfyUI gives an image model, as the editor sees them: read through the user's own CLIP, at its
clip skip, with its LoRAs and patches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ....families.doors import CONDITIONING, DoorError, Family
from ....families.family import states_as_they_are
from ....quickfix import StateTower, TokenTable
from ....text.prompts import PromptTokenizer
from ..objects import Clip, Model
from .any_states import open_any_rows
from .model_front import Front, MakeStates
from .row_reader import RowReader, as_they_are, embeddings_of, part_of
from .row_states import open_row_states

# Prompts encoded at once.
_BATCH = 16
# Token streams of CLIPs.
_CLIPS = frozenset({"l", "g", "h"})


class UnsupportedStatesError(ValueError):
    """A CLIP whose text states are not those that an image model's doors read."""


@dataclass(frozen=True)
class TextStates:
    """What the doors of an image model read, and the tokenizer that cuts prompts for it."""

    tower: StateTower
    tokenizer: PromptTokenizer
    reader: StateReader | RowReader
    read_pooled: Callable[[Sequence[str]], torch.Tensor] | None = None

    @property
    def pooled(self) -> Callable[[Sequence[str]], torch.Tensor] | None:
        """Gives the pooled vectors of some prompts, (n, width); None where there are none."""
        return self._of_clip if isinstance(self.reader, StateReader) else self.read_pooled

    def _of_clip(self, prompts: Sequence[str]) -> torch.Tensor:
        assert isinstance(self.reader, StateReader)
        return self.reader.pooled([prompt.ids for prompt in self.tokenizer.tokenize_all(list(prompts))])


@dataclass(frozen=True)
class StateReader:
    """Encodes token ids by a CLIP whose text encoders are all CLIP's.

    Attributes:
        clip: the user's own; it is not changed.
        streams: the names of its token streams, with the token that pads each.
    """

    clip: Clip
    streams: tuple[tuple[str, int], ...]

    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Text states (n, length, width) as a conditioning holds them, on the CPU.

        Raises:
            InterruptProcessingException: the user cancels.
        """
        found = []
        for start in range(0, len(rows), _BATCH):
            comfy.model_management.throw_exception_if_processing_interrupted()
            batch = [list(row) for row in rows[start : start + _BATCH]]
            states = self.clip.encode_from_tokens(self._tokens(batch))
            # ComfyUI encodes the parts of a long prompt side by side, and sets them behind each other.
            found.append(states.float().cpu().unflatten(1, (len(batch), -1))[0])
        return torch.cat(found)

    def pooled(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The pooled vectors (n, width) of some prompts, on the CPU."""
        name, pad = self.streams[-1]
        encoder = getattr(self.clip.cond_stage_model, f"clip_{name}")
        # Loads the weights and sets the options, as for a prompt.
        self.clip.encode_from_tokens(self._tokens([list(rows[0])]))
        found = []
        for start in range(0, len(rows), _BATCH):
            comfy.model_management.throw_exception_if_processing_interrupted()
            found.append(encoder.encode([_padded(row, pad) for row in rows[start : start + _BATCH]])[1].float().cpu())
        return torch.cat(found)

    def _tokens(self, rows: Sequence[Sequence[int]]) -> dict[str, list[list[tuple[int, float]]]]:
        return {name: [[(token, 1.0) for token in _padded(row, pad)] for row in rows] for name, pad in self.streams}


def _padded(row: Sequence[int], pad: int) -> list[int]:
    """A prompt with an encoder's own padding behind its end: what stands behind the first end token is padding."""
    ids = list(row)
    end = max(ids)
    stop = ids.index(end) + 1
    return ids[:stop] + [pad] * (len(ids) - stop)


def open_text_states(clip: Clip, family: Family, model: Model | None = None) -> TextStates:
    """Read the text states of a CLIP without touching it.

    Args:
        model: the image model; needed where its own modules make other states of the conditioning first.

    Raises:
        UnsupportedStatesError: the CLIP is not of the family's kind, or the family's text encoder cannot be read.
    """
    if family.name == CONDITIONING.name:
        return _of_any(clip)
    return _of_clips(clip, family) if _CLIPS.issuperset(family.encoders) else _of_rows(clip, family, model)


def _of_any(clip: Clip) -> TextStates:
    """The text states of a conditioning, whatever reads them."""
    streams = tuple(clip.tokenize(""))
    if _CLIPS.issuperset(streams):
        # ComfyUI sets the states of these side by side in this order.
        return _of_clips(clip, dataclasses.replace(CONDITIONING, encoders=tuple(n for n in "lgh" if n in streams)))
    opened = open_any_rows(clip)
    if opened is None:
        raise UnsupportedStatesError(
            f"The CLIP, {type(clip.cond_stage_model).__name__} with the tokens {', '.join(streams) or 'none'}, does "
            "not give one text state for each of its tokens, so that no map of them can be computed."
        )
    return TextStates(*opened)


def _of_rows(clip: Clip, family: Family, model: Model | None) -> TextStates:
    """The text states of encoders that are no CLIP."""
    streams = clip.tokenize("")
    missing = [name for name in (*family.encoders, *family.positions) if name not in streams]
    if missing:
        raise _foreign(clip, family)
    absent = [name for name in family.encoders if part_of(clip.cond_stage_model, name) is None]
    if absent:
        raise UnsupportedStatesError(
            f"The CLIP was loaded without {', '.join(absent)}; an edit of {family.title} reads "
            f"{', '.join(family.encoders)}. Load all of them."
        )
    makes, embeddings = _fronts(family, model)
    try:
        tower, tokenizer, reader, pooled = open_row_states(clip, family, makes, embeddings)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, DoorError) as error:
        # States of another width than the model's modules read.
        raise _foreign(clip, family, f" ({error})") from error
    if model is not None:
        widths = {door.width for door in family.doors(_shapes(model)) if door.reads == "text"}
        if widths != {tower.width}:
            raise _foreign(clip, family, f" with states {tower.width} wide, not {', '.join(map(str, sorted(widths)))}")
    return TextStates(tower, tokenizer, reader, pooled)


def _fronts(
    family: Family, model: Model | None
) -> tuple[tuple[MakeStates, MakeStates | None], Callable[[], torch.Tensor] | None]:
    """What makes the states, and the pooled vectors, that doors read; and the embeddings of tokens that the image model
    has itself."""
    if model is None:
        if family.front_of is not states_as_they_are:
            raise UnsupportedStatesError(
                f"{family.title} makes other states of the text before it reads them: without the MODEL they cannot be "
                "known. Connect the MODEL of the same checkpoint to the input model."
            )
        return (as_they_are, None), None
    front = Front(model, family)
    pooled = functools.partial(front.make, reads="pooled") if "pooled" in family.fronts else None
    adapted = "llm_adapter" in family.front_modules
    return (front.make, pooled), (lambda: front.weight("llm_adapter.embed.weight")) if adapted else None


def _shapes(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.model.diffusion_model.named_parameters()}


def _foreign(clip: Clip, family: Family, found: str = "") -> UnsupportedStatesError:
    return UnsupportedStatesError(
        f"The CLIP does not belong to the MODEL: found {type(clip.cond_stage_model).__name__}, which reads "
        f"{', '.join(clip.tokenize('')) or 'nothing'}{found}; expected the text encoders "
        f"{', '.join(family.encoders)} of {family.title}. Connect the CLIP of the same checkpoint."
    )


def _of_clips(clip: Clip, family: Family) -> TextStates:
    model, tokenizer = clip.cond_stage_model, clip.tokenizer
    streams = tuple(clip.tokenize(""))
    names = [name for name in family.encoders if hasattr(model, f"clip_{name}") and hasattr(tokenizer, f"clip_{name}")]
    if set(streams) != set(family.encoders) or len(names) != len(family.encoders):
        raise _foreign(clip, family)
    own: list[Any] = [getattr(tokenizer, f"clip_{name}") for name in names]
    reader = StateReader(clip, tuple(zip(names, (one.pad_token for one in own), strict=True)))
    length = getattr(model, f"clip_{names[0]}").max_length
    prompts = PromptTokenizer(own[0].tokenizer, pad_token=own[0].pad_token, context_length=length)
    parts = [embeddings_of(clip, name).shape[1] for name in names]
    tower = StateTower.of_prompts(reader.states, prompts, parts, _token_table(clip, names[0]), family.name)
    return TextStates(tower, prompts, reader)


def _token_table(clip: Clip, name: str) -> TokenTable:
    def rows(ids: torch.Tensor) -> torch.Tensor:
        weight = embeddings_of(clip, name).detach()
        return weight[ids.to(weight.device)].float().cpu()

    return TokenTable(embeddings_of(clip, name).shape[0], rows)
