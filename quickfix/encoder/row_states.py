"""The text states of image models that read other encoders than CLIP, computed without the program that paints.

What ComfyUI gives a model for a prompt: Z-Image the states of Qwen3's last layer but one, of the prompt within a chat
template; Qwen-Image the last states of Qwen2.5-VL, of a template whose beginning is cut away; Flux.1 and others T5's
last states, Flux.1 with padding up to 256 tokens. Anima reads what its adapter makes of Qwen3's last states at T5's
tokens, Krea 2 what its text network makes of the states of every third layer of Qwen3-VL.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from ...families.doors import Family
from ...text.other_tokenizers import Tokenize
from ...text.prompts import PromptError, PromptTokenizer
from ...text.rows import Row, RowTokenizer, tokens_of
from .decoder_tower import DecoderTower
from .prefixes import PrefixStates
from .prompt_states import PromptStates
from .states import ReadStates, StateTower, states_by_group
from .t5_tower import T5Tower
from .token_table import TokenTable
from .tower import solving_device
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
        cut: whether the states of the template's beginning are not given to the image model.
        mixed: whether what the doors read is made of the states of all tokens of a prompt.
        theta: base of the rotary positions, where no configuration tells it.
        lowered: whether prompts are read in lower case, without space around them.
        title: the text encoder, for people.
    """

    kind: str
    template: str = "{}"
    unread: int = 0
    normed: bool = True
    least: int = 1
    pooled: bool = False
    beside: bool = False
    cut: bool = False
    mixed: bool = False
    theta: float = 1_000_000.0
    lowered: bool = False
    title: str = "T5"


_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
_DESCRIBING = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n" + _CHAT
)
_MARK = "<|im_start|>"
ROW_READINGS = {
    "z-image": RowReading("qwen", _CHAT, 1, False, title="Qwen3"),
    "qwen-image": RowReading("qwen", _DESCRIBING, cut=True, title="Qwen2.5-VL"),
    "krea2": RowReading("qwen", _DESCRIBING, cut=True, mixed=True, theta=5_000_000.0, title="Qwen3-VL"),
    "flux": RowReading("t5", least=256, pooled=True),
    "chroma": RowReading("t5"),
    "pixart": RowReading("t5"),
    "sd3": RowReading("t5", least=77),
    "anima": RowReading("qwen", beside=True, mixed=True, title="Qwen3"),
}
"""The families whose text states are read here, by the name of the family."""
# As diffusers' pipelines read them, where it is otherwise.
_DIFFUSERS: dict[str, dict[str, Any]] = {"flux": {"least": 512}, "sd3": {"least": 256}, "pixart": {"lowered": True}}
_PAD = {"qwen": 151643, "t5": 0}


def reading_of(family: Family, *, diffusers: bool) -> RowReading:
    """How a family of :data:`ROW_READINGS` reads its text encoder, in ComfyUI's files or in diffusers' pipelines."""
    reading = ROW_READINGS[family.name]
    return reading._replace(**_DIFFUSERS.get(family.name, {})) if diffusers else reading


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
        taps: how many layers' states stand beside each other, spread evenly over the encoder.
    """

    encoder: DecoderTower | T5Tower
    tokenizer: RowTokenizer
    family: Family
    reading: RowReading
    make: MakeStates
    embeddings: TokenTable | None = None
    clip: PromptStates | None = None
    taps: int = 1
    known: PrefixStates | None = field(default=None, repr=False)

    @property
    def depths(self) -> list[tuple[int, bool]]:
        """After how many layers of the text encoder its states are read, and whether after the final norm."""
        layers = self.encoder.num_layers
        if self.taps == 1:
            return [(layers - self.reading.unread, self.reading.normed)]
        step = layers // self.taps
        return [(number, False) for number in range(step - 1, step * self.taps, step)]

    def remembering(self) -> RowStates:
        """The same, with each beginning of a prompt computed once in all, where the encoder is causal: for the time of
        an edit, in which it does not change."""
        clip = None if self.clip is None else self.clip.remembering()
        known = self._prefixes() if isinstance(self.encoder, DecoderTower) else None
        return dataclasses.replace(self, clip=clip, known=known)

    @torch.no_grad()
    def states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """What the doors read (n, length, width); zeros where a row is filled up, or the model is given nothing."""
        where = solving_device(self.encoder.device)
        if isinstance(self.encoder, DecoderTower):
            return self._of_decoder(rows).to(where)
        encoder = self.encoder

        def read(alike: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
            return self.make(encoder.hidden_states([tokens_of(row)[0] for row in alike]), {}), 0

        return states_by_group(rows, lambda row, place: len(tokens_of(row)[0]), read, _BATCH).to(where)

    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """The pooled vectors (n, width) of some prompts (TowerError: the image model reads none, or nothing gives
        them)."""
        if self.clip is None:
            raise TowerError(f"No CLIP text encoder gives the pooled vector of {self.family.title}.")
        return self.clip.pooled(prompts)

    def tower(self, read: ReadStates | None = None, scale: torch.Tensor | None = None) -> StateTower:
        """The states as a tower (:meth:`StateTower.of_rows` for the errors).

        Args:
            read: gives other states for the same rows, those with another encoder's behind them.
            scale: of the keys; None: that of everyday captions.
        """
        shortens = isinstance(self.encoder, DecoderTower) and not self.reading.mixed
        device, tokens = solving_device(self.encoder.device), self.embeddings
        if tokens is None:
            unknown = frozenset({UNKNOWN}) if self.reading.kind == "t5" else frozenset()
            tokens = TokenTable(self.encoder.vocabulary, lambda ids: self.encoder.embeddings(ids).to(device), unknown)
        return StateTower.of_rows(
            read or self.states, self.tokenizer, tokens, self.family, scale=scale, device=device, shortens=shortens
        )

    def _prefixes(self) -> PrefixStates:
        return PrefixStates(self._read, _NO_END)

    def _read(
        self, tokens: torch.Tensor, behind: torch.Tensor, places: torch.Tensor, lookup: torch.Tensor
    ) -> torch.Tensor:
        assert isinstance(self.encoder, DecoderTower)
        states = torch.cat(self.encoder.prefix_states(tokens, places, lookup, self.depths), dim=-1)
        return states if self.reading.mixed else self.make(states[None], {})[0]

    def _of_decoder(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        known = self.known or self._prefixes()
        cut = self.tokenizer.template_length if self.reading.cut else 0
        if not self.reading.mixed:
            states = known.states(rows)
            states[:, :cut] = 0
            return states

        def read(alike: Sequence[Sequence[int]]) -> tuple[torch.Tensor, int]:
            if not self.reading.beside:
                return self.make(known.states([tokens_of(row)[0] for row in alike])[:, cut:], {}), cut
            # Rows with another encoder's tokens stand alone: these are of any length.
            own, beside = tokens_of(alike[0])
            return self.make(known.states([beside]), {"t5xxl_ids": torch.tensor([own])})[:, : len(own)], 0

        return states_by_group(
            rows, lambda row, place: place if self.reading.beside else len(tokens_of(row)[0]), read, _BATCH
        )


def row_tokenizer(
    reading: RowReading, family: Family, tokenize: Mapping[str, Tokenize], behind: PromptTokenizer | None = None
) -> RowTokenizer:
    """The rows of a family's prompts.

    Args:
        tokenize: the tokenizers by kind: that of the text encoder, and T5's too where the states stand for its tokens.
        behind: cuts prompts for a CLIP whose states stand behind those of the text encoder.

    Raises:
        PromptError: a prompt that is a template of its own.
    """

    def row(text: str) -> Row:
        if reading.cut and text.startswith(_MARK):
            raise PromptError(
                f"The prompt begins with {_MARK}, so that it is read as a template of its own: {text!r}. An edit reads "
                "prompts within the usual template; leave it out."
            )
        text = text.lower().strip() if reading.lowered else text
        ids = tokenize[reading.kind](reading.template.replace("{}", text))
        if reading.beside:
            counted = tokenize["t5"](text)
            # Qwen makes no token of no text; ComfyUI gives it its pad.
            return Row(tuple(counted), len(counted), tuple(ids) or (_PAD[reading.kind],))
        padded = (*ids, *(_PAD[reading.kind] for _ in range(reading.least - len(ids))))
        return Row(padded, len(ids), tuple(_parts(behind, text)) if behind is not None else ())

    return RowTokenizer(
        row,
        # Two parts of CLIP's context stand behind the longest row.
        context_length=max(_CONTEXT, reading.least + (2 * behind.context_length if behind is not None else 0)),
        unreadable=frozenset({UNKNOWN}) if reading.kind == "t5" or reading.beside else frozenset(),
        title=f"The text encoder of {family.title}",
        behind=behind,
    )


def _parts(behind: PromptTokenizer, text: str) -> Iterator[int]:
    """A prompt's tokens of CLIP, part by part where it is longer than the context."""
    (parts,) = behind.parts_all([text])
    return (token for part in parts for token in part.ids)
