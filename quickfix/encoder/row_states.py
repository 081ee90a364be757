"""The text states of image models that read other encoders than CLIP, computed without the program that paints.

What ComfyUI gives a model for a prompt: Z-Image the states of Qwen3's last layer but one, of the prompt within a chat
template; Flux.1 and others T5's last states, Flux.1 with padding up to 256 tokens. Anima reads what its adapter makes
of Qwen3's last states at T5's tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ...families.doors import Family
from ...text.other_tokenizers import Tokenize
from ...text.rows import Row, RowTokenizer, tokens_of
from .decoder_tower import DecoderTower
from .prefixes import PrefixStates
from .prompt_states import PromptStates
from .states import StateTower, states_by_group
from .t5_tower import T5Tower
from .token_table import TokenTable
from .towers import TowerError

# Tokens of the longest row, and prompts that run through T5 at once.
_CONTEXT, _BATCH = 256, 16
UNKNOWN = 2
"""T5's token of letters that have none."""
_NO_END = -2
# States (n, tokens, width), and what else a conditioning holds, to what doors read.
MakeStates = Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]


class RowReading(NamedTuple):
    """How a family of image models reads its text encoder.

    Attributes:
        kind: "qwen" or "t5".
        template: what stands around a prompt, ``{}`` in its place.
        unread: layers, the last ones, that are not run for the states.
        normed: whether the states are read after the final norm.
        least: tokens up to which a row is padded.
        pooled: whether CLIP-L's vector is read beside the states.
        beside: whether the states stand for T5's tokens, and are made of Qwen's.
    """

    kind: str
    template: str = "{}"
    unread: int = 0
    normed: bool = True
    least: int = 1
    pooled: bool = False
    beside: bool = False


ROW_READINGS = {
    "z-image": RowReading("qwen", "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", 1, False),
    "flux": RowReading("t5", least=256, pooled=True),
    "chroma": RowReading("t5"),
    "anima": RowReading("qwen", beside=True),
}
"""The families whose text states are read here, by the name of the family."""
_PAD = {"qwen": 151643, "t5": 0}


@dataclass(frozen=True)
class RowStates:
    """The text states of prompts, by the text encoder of one image model.

    Attributes:
        encoder: the text encoder.
        tokenizer: makes rows of prompts.
        family: of the image model.
        reading: how it reads the encoder.
        make: makes what the doors read, the same for each token alone unless the family's states are of other tokens.
        embeddings: the embeddings of the counted tokens, where the text encoder is not what has them.
        clip: gives the pooled vectors, where the image model reads some.
    """

    encoder: DecoderTower | T5Tower
    tokenizer: RowTokenizer
    family: Family
    reading: RowReading
    make: MakeStates
    embeddings: TokenTable | None = None
    clip: PromptStates | None = None
    known: PrefixStates | None = field(default=None, repr=False)

    def remembering(self) -> RowStates:
        """The same, with each beginning of a prompt computed once in all, where the encoder is causal: for the time of
        an edit, in which it does not change."""
        clip = None if self.clip is None else self.clip.remembering()
        known = self._prefixes() if isinstance(self.encoder, DecoderTower) else None
        return dataclasses.replace(self, clip=clip, known=known)

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the doors read (n, length, width), zeros where a row is filled up."""
        if self.reading.beside:
            return self._adapted(rows)
        if isinstance(self.encoder, DecoderTower):
            return (self.known or self._prefixes()).states(rows)
        encoder = self.encoder

        def read(alike: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
            return self.make(encoder.hidden_states([tokens_of(row)[0] for row in alike]), {}), 0

        return states_by_group(rows, lambda row, place: len(tokens_of(row)[0]), read, _BATCH)

    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """The pooled vectors (n, width) of some prompts (TowerError: the image model reads none, or nothing gives
        them)."""
        if self.clip is None:
            raise TowerError(f"No CLIP text encoder gives the pooled vector of {self.family.title}.")
        return self.clip.pooled(prompts)

    def tower(self) -> StateTower:
        """The states as a tower (:meth:`StateTower.of_rows` for the errors)."""
        tokens = self.embeddings
        if tokens is None:
            unknown = frozenset({UNKNOWN}) if self.reading.kind == "t5" else frozenset()
            tokens = TokenTable(self.encoder.vocabulary, self.encoder.embeddings, unknown)
        shortens = isinstance(self.encoder, DecoderTower) and not self.reading.beside
        return StateTower.of_rows(
            self.states, self.tokenizer, tokens, self.family, device=self.encoder.device, shortens=shortens
        )

    def _prefixes(self) -> PrefixStates:
        return PrefixStates(self._read, _NO_END)

    def _read(
        self, tokens: torch.Tensor, behind: torch.Tensor, places: torch.Tensor, lookup: torch.Tensor
    ) -> torch.Tensor:
        assert isinstance(self.encoder, DecoderTower)
        depth = self.encoder.num_layers - self.reading.unread
        (states,) = self.encoder.prefix_states(tokens, places, lookup, [(depth, self.reading.normed)])
        return states if self.reading.beside else self.make(states[None], {})[0]

    def _adapted(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The states at T5's tokens, made of Qwen's states."""
        known = self.known or self._prefixes()

        def read(alike: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
            own, beside = tokens_of(alike[0])
            return self.make(known.states([beside]), {"t5xxl_ids": torch.tensor([own])})[:, : len(own)], 0

        return states_by_group(rows, lambda row, place: place, read, 1)


def row_tokenizer(reading: RowReading, family: Family, tokenize: Mapping[str, Tokenize]) -> RowTokenizer:
    """The rows of a family's prompts.

    Args:
        tokenize: the tokenizers by kind: that of the text encoder, and T5's too where the states stand for its tokens.
    """

    def row(text: str) -> Row:
        ids = tokenize[reading.kind](reading.template.replace("{}", text))
        if reading.beside:
            counted = tokenize["t5"](text)
            # Qwen makes no token of no text; ComfyUI gives it its pad.
            return Row(tuple(counted), len(counted), tuple(ids) or (_PAD[reading.kind],))
        return Row((*ids, *(_PAD[reading.kind] for _ in range(reading.least - len(ids)))), len(ids))

    return RowTokenizer(
        row,
        context_length=max(_CONTEXT, reading.least),
        unreadable=frozenset({UNKNOWN}) if reading.kind == "t5" or reading.beside else frozenset(),
        title=f"The text encoder of {family.title}",
    )
