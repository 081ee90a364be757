"""The text states that an image model is given, as a tower whose one linear map is the identity.

A door of an image model is a linear map W whose input c is a function of the prompt alone. The edit that takes the
output at every source state c to what W gives at its target state c* is, for every W,

    dW = W X,   X = (C* - C) C^T (lam I + C C^T + beta P P^T)^-1

(``solver/closed_form.py`` with W = I), so one map X of the text states serves all doors that read them.

States of several encoders that stand side by side (SDXL) are of different sizes, and those of the first token are far
larger than all others. Keys are therefore the states times :attr:`StateTower.scale`, with which each encoder's part has
the same mean square, and a whole key without the first token that of 1: lambda is relative to it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import torch

from ...families.doors import Family
from ...text.prompts import PromptTokenizer, TokenizedPrompt
from ...text.rows import FILL, RowTokenizer, without_filling
from ..concepts.built_in import EVERYDAY
from ..solver.low_rank import LowRank
from .token_table import TokenTable
from .towers import AttentionStates, Ids, TowerError

STATES = "text states"
"""What stands for the weight's name in an edit of the text states."""

# Token ids, each row as long as the context, to states (n, length, width).
ReadStates = Callable[[Sequence[Sequence[int]]], torch.Tensor]
_CPU = torch.device("cpu")
# Everyday captions by which the sizes of states are known.
_SIZED_BY = 16


@dataclass(frozen=True, eq=False)
class StateTower:
    """The text states of an image model, as a tower.

    Attributes:
        read: gives the states of prompts, from token ids as long as ``context_length``.
        pad_token: fills what is shorter, where nothing behind it is asked for.
        width: of the states.
        context_length: positions of a prompt.
        scale: (width,), what keys are of the states.
        tokens: the token embeddings of the encoder that cuts the prompts.
        encoder: the family of image models, a name of ``families.doors.FAMILIES``.
        causal: whether a state depends on nothing that stands behind it in its prompt.
        whole: whether ``read`` needs whole prompts.
        template: how many positions at a prompt's beginning are no word of its own; they are not measured.
        device: where everything is computed.
        shortens: whether ``read`` takes prompts that are cut short, all to one length, with
            :data:`~.text.rows.FILL` behind all that is asked for, and gives their states alone, as it can where
            ``causal``; otherwise it gets them as long as ``context_length``, or, where ``whole``, as the longest of
            them.
    """

    read: ReadStates
    pad_token: int
    width: int
    context_length: int
    scale: torch.Tensor
    tokens: TokenTable
    encoder: str
    causal: bool = True
    whole: bool = False
    template: int = 1
    device: torch.device = _CPU
    shortens: bool = False

    @classmethod
    def of_prompts(
        cls,
        read: ReadStates,
        tokenizer: PromptTokenizer,
        parts: Sequence[int],
        tokens: TokenTable,
        family: str,
        *,
        device: torch.device = _CPU,
        shortens: bool = False,
    ) -> StateTower:
        """A tower over the states that ``read`` gives, of CLIP's kind; the scale is known from everyday captions.

        Args:
            tokenizer: cuts the prompts.
            parts: widths of the encoders whose states stand side by side.
            tokens, family, device, shortens: see the attributes.

        Raises:
            TowerError: states of another width than the parts', or zeros.
        """
        prompts = tokenizer.tokenize_all([prompt for prompt in EVERYDAY if prompt][:_SIZED_BY])
        ends = torch.tensor([prompt.eos for prompt in prompts])
        length = int(ends.max()) + 1 if shortens else tokenizer.context_length
        fill = (FILL,) * length
        rows = [(*prompt.ids[: prompt.eos + 1], *fill) if shortens else prompt.ids for prompt in prompts]
        states = read([row[:length] for row in rows])
        places = torch.arange(states.shape[1])
        counted = (places > 0) & (places <= ends[:, None])
        scale = state_scale(states, counted.to(states.device), parts)
        context, pad = tokenizer.context_length, tokenizer.pad_token
        width = states.shape[-1]
        return cls(read, pad, width, context, scale, tokens, family, device=device, shortens=shortens)

    @classmethod
    def of_rows(
        cls,
        read: ReadStates,
        tokenizer: RowTokenizer,
        tokens: TokenTable,
        family: Family,
        *,
        scale: torch.Tensor | None = None,
        device: torch.device = _CPU,
        shortens: bool = False,
    ) -> StateTower:
        """A tower over the states that ``read`` gives, of an encoder of another kind than CLIP's.

        Args:
            tokenizer: makes the rows.
            tokens, device, shortens: see the attributes.
            family: of image models.
            scale: see the attributes; None: that of everyday captions.

        Raises:
            TowerError: states of zeros.
        """
        if scale is None:
            _, states, counted = everyday_states(read, tokenizer)
            scale = state_scale(states, counted, [states.shape[-1]])
        return cls(
            read,
            tokenizer.pad_token,
            len(scale),
            tokenizer.context_length,
            scale,
            tokens,
            family.name,
            causal=family.attention == "causal",
            whole=not shortens,
            template=tokenizer.template_length,
            device=device,
            shortens=shortens,
        )

    @staticmethod
    def out_proj_name(layer: int) -> str:
        """:data:`STATES`, whatever the layer."""
        return STATES

    def require_layer(self, layer: int) -> None:
        """Refuse another layer than 0 (TowerError): text states have none."""
        if layer != 0:
            raise TowerError(f"An edit of the doors has no layer {layer}; leave it at 0.")

    @property
    def identity(self) -> bool:
        """True: the map of the states is the identity. It may be 15,360 wide, and no matrix of it is made."""
        return True

    def weight(self, name: str) -> torch.Tensor:
        """Refuse to give a weight (TowerError): there is none."""
        raise TowerError(f"The doors of an image model read text states; there is no weight {name} among them.")

    @torch.no_grad()
    def attention_inputs(self, ids: Ids, layer: int, positions: range | None = None) -> torch.Tensor:
        """The keys of some prompts, (n, positions, width) in fp32.

        Raises:
            TowerError: prompts longer than the context, states of another shape or not finite.
        """
        self.require_layer(layer)
        rows = torch.as_tensor(ids, dtype=torch.long)
        count, length = rows.shape
        if not 1 <= length <= self.context_length:
            raise TowerError(f"Token ids have shape {tuple(rows.shape)}; expected 1 to {self.context_length} tokens.")
        positions = range(length) if positions is None else positions
        if self.shortens:
            rows, length = rows[:, : positions.stop], positions.stop
        elif self.whole and count:
            # Behind the last token of the longest row there is nothing to be read.
            rows = rows[:, : max(positions.stop, 1 + int((rows != self.pad_token).any(0).nonzero().amax()))]
        else:
            rows = torch.cat((rows, rows.new_full((count, self.context_length - length), self.pad_token)), dim=1)
        states = self.read(rows.tolist()) if count else torch.zeros(0, length, self.width)
        if tuple(states.shape[::2]) != (count, self.width) or states.shape[1] < positions.stop:
            raise TowerError(
                f"The text encoder gave states of shape {tuple(states.shape)} for {count} prompts of {length} tokens; "
                f"expected {self.width} wide ones, one for each token."
            )
        keys = states[:, positions.start : positions.stop].to(self.device, torch.float32) * self.scale.to(self.device)
        if not torch.isfinite(keys).all():
            raise TowerError("The text encoder gives states that hold NaN or infinity; its weights are damaged.")
        return keys

    def attention_states(self, ids: Ids, layer: int) -> AttentionStates:
        """The keys, twice: as what is edited, and, without what precedes the words, as what they are measured by."""
        keys = self.attention_inputs(ids, layer)
        residual = keys.clone()
        residual[:, : self.template] = 0
        return AttentionStates(keys, residual)

    def finish(self, residual: torch.Tensor, layer: int) -> torch.Tensor:
        """The keys as they are: nothing stands behind them."""
        return residual

    def untrained_tokens(self, tokens: Iterable[int]) -> frozenset[int]:
        """:meth:`TokenTable.untrained` of the encoder's tokens."""
        return self.tokens.untrained(tokens)

    def mean_embeddings(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """:meth:`TokenTable.means` of the encoder's tokens."""
        return self.tokens.means(rows)

    def in_weight(self, update: LowRank) -> LowRank:
        """A map of the keys as the map X of the states: S^-1 X' S with S the scale; the rows of down orthonormal."""
        scale = self.scale.to(update.up)
        basis, mixing = torch.linalg.qr((update.down * scale).double().T)
        return LowRank((update.up / scale[:, None]).double() @ mixing.T, basis.T).to(update.up.dtype)

    def in_keys(self, update: LowRank) -> LowRank:
        """A map of the states as the map of the keys: S X S^-1; the rows of down orthonormal."""
        scale = self.scale.to(update.up)
        basis, mixing = torch.linalg.qr((update.down / scale).double().T)
        return LowRank((update.up * scale[:, None]).double() @ mixing.T, basis.T).to(update.up.dtype)


def everyday_states(
    read: ReadStates, tokenizer: RowTokenizer
) -> tuple[list[TokenizedPrompt], torch.Tensor, torch.Tensor]:
    """Some everyday captions, their states (n, positions, width), and which of these count: those of the text."""
    captions = tokenizer.tokenize_all([prompt for prompt in EVERYDAY if prompt][:_SIZED_BY])
    states = read(without_filling([caption.ids for caption in captions]))
    places = torch.arange(states.shape[1])
    starts, ends = (torch.tensor([getattr(one, end) for one in captions])[:, None] for end in ("start", "eos"))
    return captions, states, ((places >= starts) & (places <= ends)).to(states.device)


def states_by_group(
    rows: Sequence[Sequence[int]],
    alike: Callable[[Sequence[int], int], Hashable],
    read: Callable[[Sequence[Sequence[int]]], tuple[torch.Tensor, int]],
    most: int,
) -> torch.Tensor:
    """The states (n, length, width) of at least one row, all of one length, read from rows that are alike at a time;
    zeros where none are given.

    Args:
        alike: what rows have in common that are read at once, of a row and its place.
        read: gives the states (rows, positions, width) of some rows, and the position of the first of them.
        most: rows that are read at once.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(alike(row, place), []).append(place)
    found: torch.Tensor | None = None
    for places in groups.values():
        for start in range(0, len(places), most):
            batch = places[start : start + most]
            states, first = read([rows[place] for place in batch])
            if found is None:
                found = states.new_zeros(len(rows), len(rows[0]), states.shape[-1])
            found[batch, first : first + states.shape[1]] = states
    assert found is not None
    return found


def state_scale(states: torch.Tensor, counted: torch.Tensor, parts: Sequence[int]) -> torch.Tensor:
    """The scale (width,) with which some states have parts of equal mean square, together of 1.

    Args:
        states: (n, positions, width) of everyday captions.
        counted: (n, positions) of bool, the positions that count: words and ends, never the first token.
        parts: widths of what stands side by side, as long as ``width`` together.

    Raises:
        TowerError: parts that do not fit, or one that is zero.
    """
    if sum(parts) != states.shape[-1]:
        raise TowerError(f"Text states are {states.shape[-1]} wide; expected {' + '.join(map(str, parts))}.")
    rows = states[counted].double()
    sizes = [part.square().sum(1).mean().sqrt() for part in rows.split(list(parts), dim=1)]
    if not all(size > 0 for size in sizes):
        raise TowerError("A text encoder gives states of zeros for everyday captions; its weights are damaged.")
    shares = [
        states.new_full((part,), 1.0 / (float(size) * len(parts) ** 0.5))
        for part, size in zip(parts, sizes, strict=True)
    ]
    return torch.cat(shares).float()
