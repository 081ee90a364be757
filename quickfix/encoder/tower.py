"""The CLIP text tower as a pure function of named weights, run only as far as an edit needs.

ComfyUI and transformers name the parts of the tower alike, so one function over a mapping from name to tensor serves
both, and a checkpoint file just as well. A layer's weights are read when that layer runs: to see what the output
projection of layer L is fed, layers above L are never touched.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from ...families.clip import ENCODERS, encoder_of_width
from ..solver.low_rank import LowRank
from .attention import attend, attend_prefixes, attend_rows
from .named_weights import CalledWeights, ReplacedWeights
from .token_table import TokenTable
from .towers import AttentionStates, Ids, TowerError

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
TOKENS = "embeddings.token_embedding.weight"
TOKEN_POSITIONS = "embeddings.position_embedding.weight"
# Captions attended at once; bounds the memory of long concept lists.
_ROWS = 256
_CPU = torch.device("cpu")
# Kinds of devices that compute in fp64, as a solve does. Apple's and many of Intel's do not.
_WITH_FP64 = ("cpu", "cuda")


@dataclass(frozen=True)
class TextTower:
    """A CLIP text tower.

    Attributes:
        weights: CLIP's parameter names ("encoder.layers.0.self_attn.out_proj.weight", ...) to tensors, any float dtype.
        heads: attention heads.
        num_layers: transformer layers that the image model reads; what stands behind them (clip skip) is never run.
        activation: a key of :data:`ACTIVATIONS`.
        eps: epsilon of the layer norms.
        encoder: which text encoder it is, a key of :data:`~.families.clip.ENCODERS`.
        device: where everything is computed. A weight may lie anywhere; it is brought here when it is read, and of the
            token embeddings only the rows that are read.
    """

    weights: Mapping[str, torch.Tensor]
    heads: int
    num_layers: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    encoder: str = "clip_l"
    device: torch.device = _CPU
    causal: ClassVar[bool] = True
    whole: ClassVar[bool] = False
    shortens: ClassVar[bool] = False

    @classmethod
    def from_weights(
        cls,
        weights: Mapping[str, torch.Tensor] | Callable[[str], torch.Tensor],
        *,
        heads: int,
        activation: str = "quick_gelu",
        eps: float = 1e-5,
        num_layers: int | None = None,
        encoder: str = "clip_l",
        device: torch.device = _CPU,
    ) -> TextTower:
        """A tower over a mapping, or over a function from name to tensor (then ``num_layers`` must be given).

        Raises:
            TowerError: unknown activation, no layers, or ``heads`` below one.
        """
        if activation not in ACTIVATIONS:
            raise TowerError(f"Unknown activation {activation!r}; expected one of {', '.join(ACTIVATIONS)}.")
        if heads < 1:
            raise TowerError(f"A text encoder has at least one attention head; got heads={heads}.")
        if not isinstance(weights, Mapping):
            weights = CalledWeights(weights)
        if num_layers is None:
            numbers = {name.split(".")[2] for name in weights if name.startswith("encoder.layers.")}
            num_layers = 1 + max((int(number) for number in numbers), default=-1)
        if num_layers < 1:
            raise TowerError(
                "Found no weight named encoder.layers.<n>...; expected a CLIP text model's parameters without a prefix."
            )
        return cls(weights, heads, num_layers, activation, eps, encoder, device)

    @classmethod
    def from_module(cls, module: nn.Module) -> TextTower:
        """A tower over the live parameters of transformers' or ComfyUI's CLIP text model (or its ``text_model``), which
        computes where most of them lie (:func:`device_of_most`).

        Raises:
            TowerError: the module is not a CLIP text model.
        """
        inner: Any = getattr(module, "text_model", module)
        try:
            layer = inner.encoder.layers[0]
            attention = layer.self_attn
            heads = attention.heads if hasattr(attention, "heads") else attention.num_heads
            function = layer.mlp.activation if hasattr(layer.mlp, "activation") else layer.mlp.activation_fn
            eps = layer.layer_norm1.eps
        except AttributeError as error:
            raise TowerError(
                f"{type(module).__name__} is not a CLIP text model ({error}); pass a CLIPTextModel or its text_model."
            ) from error
        weights = {name: parameter.detach() for name, parameter in inner.named_parameters()}
        encoder = encoder_of_width(weights[TOKEN_POSITIONS].shape[1])
        return cls.from_weights(
            weights,
            heads=heads,
            activation=_recognize(function),
            eps=eps,
            encoder=encoder,
            device=device_of_most(weights.values()),
        )

    @property
    def width(self) -> int:
        """Width of the residual stream; 768 for CLIP-L."""
        return int(self._read(TOKEN_POSITIONS).shape[1])

    @property
    def context_length(self) -> int:
        """Positions that the encoder has."""
        return int(self._read(TOKEN_POSITIONS).shape[0])

    @staticmethod
    def out_proj_name(layer: int) -> str:
        """Name of the weight that an edit of ``layer`` changes."""
        return f"encoder.layers.{layer}.self_attn.out_proj.weight"

    def require_layer(self, layer: int) -> None:
        """Refuse a layer that the tower does not have (TowerError)."""
        if not 0 <= layer < self.num_layers:
            raise TowerError(
                f"There is no layer {layer}: the image model reads layers 0 to {self.num_layers - 1} of this encoder "
                "(at its clip skip). Choose one of them."
            )

    def untrained_tokens(self, tokens: Iterable[int]) -> frozenset[int]:
        """:meth:`TokenTable.untrained` of the tower's tokens."""
        return self.token_table().untrained(tokens)

    def mean_embeddings(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """:meth:`TokenTable.means` of the tower's tokens."""
        return self.token_table().means(rows)

    def in_weight(self, update: LowRank) -> LowRank:
        """An update of the keys that the tower gives, as one of the weight: the same."""
        return update

    def in_keys(self, update: LowRank) -> LowRank:
        """An update of the weight, as one of the keys that the tower gives: the same."""
        return update

    @property
    def identity(self) -> bool:
        """False: what is edited is a weight."""
        return False

    def weight(self, name: str) -> torch.Tensor:
        """One weight in fp32, on the tower's device.

        Raises:
            TowerError: there is none of this name, or it holds NaN or infinity.
        """
        return _finite(name, self._read(name).to(self.device, torch.float32))

    @torch.no_grad()
    def attention_inputs(self, ids: Ids, layer: int, positions: range | None = None) -> torch.Tensor:
        """The input of ``out_proj`` in one self-attention layer.

        Args:
            ids: token ids (n, length), padded.
            layer: 0 to ``num_layers - 1``; no weight of a later layer is read.
            positions: token positions wanted, a range of step 1 (default: all). What stands after them is not computed:
                the tower is causal.

        Returns:
            (n, len(positions), width) in fp32.

        Raises:
            TowerError: ids outside of the vocabulary, prompts longer than the context, no such layer, unusable weights.
        """
        rows, positions = self._checked(ids, layer, positions)
        return self._inputs(self._enter(rows, layer), layer, positions)

    @torch.no_grad()
    def attention_states(self, ids: Ids, layer: int) -> AttentionStates:
        """The input of ``out_proj`` in one layer and the residual stream after that attention, at all positions."""
        rows, positions = self._checked(ids, layer, None)
        stream = self._enter(rows, layer)
        inputs = self._inputs(stream, layer, positions)
        outputs = self._linear(inputs, f"encoder.layers.{layer}.self_attn.out_proj")
        return AttentionStates(inputs, stream.full() + outputs)

    @torch.no_grad()
    def hidden_states(
        self, ids: Ids, edited: Mapping[str, torch.Tensor] | None = None, *, normed: bool = True
    ) -> torch.Tensor:
        """The text encoder's last hidden state (n, length, width).

        Args:
            edited: weights to use in place of the tower's own, by name.
            normed: after the final layer norm, as Stable Diffusion 1.x and 2.x read it; SDXL reads it before that.
        """
        if edited:
            return dataclasses.replace(self, weights=ReplacedWeights(self.weights, edited)).hidden_states(
                ids, normed=normed
            )
        rows, _ = self._checked(ids, self.num_layers - 1, None)
        states = self._enter(rows, self.num_layers).full()
        return self._norm(states, "final_layer_norm") if normed else states

    @torch.no_grad()
    def prefix_states(
        self, tokens: torch.Tensor, places: torch.Tensor, lookup: torch.Tensor, depths: Sequence[tuple[int, bool]]
    ) -> list[torch.Tensor]:
        """The states of distinct beginnings of prompts, (m, width) each.

        Args:
            tokens, places: (m,), the last token of each beginning and its position.
            lookup: (n, length), rows of beginnings, each one token longer than that before it; what fills a row up has
                another position.
            depths: after how many layers, in rising order, and whether after the final layer norm.

        Raises:
            TowerError: ids outside of the vocabulary, positions outside of the context, unusable weights.
        """
        for ids in (tokens[:, None], tokens[:1].expand(1, int(places.max()) + 1)):
            self._checked(ids, 0, None)
        tokens, places, lookup = (index.to(self.device) for index in (tokens, places, lookup))
        own = places[lookup] == torch.arange(lookup.shape[1], device=self.device)
        values = self._rows(TOKENS, tokens) + self._rows(TOKEN_POSITIONS, places)
        stream, found = _Stream(values, lookup, own=own), list[torch.Tensor]()
        for layer in range(max(depth for depth, _ in depths) + 1):
            here = [normed for depth, normed in depths if depth == layer]
            found += [self._norm(stream.values, "final_layer_norm") if normed else stream.values for normed in here]
            if len(found) < len(depths):
                stream = self._block(stream, layer)
        return found

    @torch.no_grad()
    def finish(self, residual: torch.Tensor, layer: int) -> torch.Tensor:
        """The last hidden state, as the image model reads it, that follows from a residual stream right after
        ``layer``'s attention.

        Args:
            residual: (n, length, width), as :meth:`attention_states` gives it, or changed.
        """
        stream = _Stream(self._feed_forward(residual, layer), None)
        for number in range(layer + 1, self.num_layers):
            stream = self._block(stream, number)
        return self._norm(stream.values, "final_layer_norm") if ENCODERS[self.encoder].normed else stream.values

    def _read(self, name: str) -> torch.Tensor:
        try:
            return self.weights[name].detach()
        except KeyError as error:
            raise TowerError(
                f"The text encoder has no weight named {name}; expected the parameters of a CLIP text model."
            ) from error

    def token_table(self) -> TokenTable:
        """The token embeddings; the rows that are asked for are read, and no others."""
        return TokenTable(
            self._read(TOKENS).shape[0], lambda ids: self._rows(TOKENS, ids).to(solving_device(self.device))
        )

    def _rows(self, name: str, index: torch.Tensor) -> torch.Tensor:
        """Some rows of a weight in fp32; the others are not brought here."""
        table = self._read(name)
        return _finite(name, table[index.to(table.device)].to(self.device, torch.float32))

    def _checked(self, ids: Ids, layer: int, positions: range | None) -> tuple[torch.Tensor, range]:
        self.require_layer(layer)
        table = self._read(TOKENS)
        rows = torch.as_tensor(ids, dtype=torch.long).to(self.device)
        context = self._read(TOKEN_POSITIONS).shape[0]
        if rows.ndim != 2 or not 1 <= rows.shape[1] <= context:
            raise TowerError(f"Token ids have shape {tuple(rows.shape)}; expected (prompts, 1 to {context} tokens).")
        low, high = (int(bound) for bound in rows.aminmax()) if rows.numel() else (0, 0)
        if low < 0 or high >= table.shape[0]:
            raise TowerError(
                f"Token id {low if low < 0 else high} is outside of the vocabulary of {table.shape[0]} tokens; the "
                "tokenizer and the text encoder do not belong together."
            )
        positions = range(rows.shape[1]) if positions is None else positions
        if positions.step != 1 or not 0 <= positions.start < positions.stop <= rows.shape[1]:
            raise TowerError(f"Cannot take {positions} of {rows.shape[1]} tokens; expected a range of step 1.")
        return rows[:, : positions.stop], positions

    def _enter(self, rows: torch.Tensor, layer: int) -> _Stream:
        """The residual stream at the entrance of ``layer``."""
        vocabulary = self._read(TOKENS).shape[0]
        places = torch.arange(rows.shape[1], device=rows.device)
        # At the entrance of layer 0 a token is its id and its position, no more: one row for each distinct pair.
        codes, index = torch.unique(places * vocabulary + rows, return_inverse=True)
        tokens = self._rows(TOKENS, codes % vocabulary)
        stream = _Stream(tokens + self._rows(TOKEN_POSITIONS, codes // vocabulary), index, rows)
        for number in range(layer):
            stream = self._block(stream, number)
        return stream

    def _block(self, stream: _Stream, layer: int) -> _Stream:
        name = f"encoder.layers.{layer}"
        inputs = self._inputs(stream, layer, range(stream.length))
        x = (stream.full() if stream.own is None else stream.values) + self._linear(
            inputs, f"{name}.self_attn.out_proj"
        )
        values = self._feed_forward(x, layer)
        return _Stream(values) if stream.own is None else stream._replace(values=values)

    def _feed_forward(self, x: torch.Tensor, layer: int) -> torch.Tensor:
        name = f"encoder.layers.{layer}"
        hidden = self._linear(self._norm(x, f"{name}.layer_norm2"), f"{name}.mlp.fc1")
        return x + self._linear(ACTIVATIONS[self.activation](hidden), f"{name}.mlp.fc2")

    def _inputs(self, stream: _Stream, layer: int, positions: range) -> torch.Tensor:
        name = f"encoder.layers.{layer}"
        x = self._norm(stream.values, f"{name}.layer_norm1")
        q, k, v = (self._linear(x, f"{name}.self_attn.{part}_proj") for part in "qkv")
        if stream.lookup is not None and stream.own is not None:
            return attend_prefixes(q, k, v, stream.lookup, stream.own, self.heads)
        if stream.lookup is not None and stream.ids is not None:
            return attend_rows(q, k, v, stream.lookup, stream.ids, self.heads, positions.start)
        rows = [
            attend(q[part, positions.start :], k[part], v[part], self.heads)
            for part in (slice(start, start + _ROWS) for start in range(0, len(q), _ROWS))
        ]
        return torch.cat(rows) if rows else q.new_zeros(0, len(positions), q.shape[-1])

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), self.eps)


class _Stream(NamedTuple):
    """A residual stream (n, length, width). With ``lookup`` (n, length) into them and token ids, its distinct rows.
    With ``own`` (n, length), where a row holds one in its own place, distinct beginnings of prompts.
    """

    values: torch.Tensor
    lookup: torch.Tensor | None = None
    ids: torch.Tensor | None = None
    own: torch.Tensor | None = None

    @property
    def length(self) -> int:
        return (self.values if self.lookup is None else self.lookup).shape[1]

    def full(self) -> torch.Tensor:
        return self.values if self.lookup is None else self.values[self.lookup]


def device_of_most(weights: Iterable[torch.Tensor]) -> torch.device:
    """The device on which most bytes of some weights lie; the CPU where that one cannot compute in fp64."""
    sizes: Counter[torch.device] = Counter()
    for weight in weights:
        sizes[weight.device] += weight.nbytes
    return solving_device(max(sizes, key=sizes.__getitem__, default=_CPU))


def solving_device(device: torch.device) -> torch.device:
    """The device itself where it computes in fp64, in which an edit is solved; else the CPU."""
    return device if device.type in _WITH_FP64 else _CPU


def _recognize(function: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """Which activation a module's function is, by what it computes: ComfyUI's are anonymous."""
    probe = torch.linspace(-3, 3, 13)
    for name, known in ACTIVATIONS.items():
        if torch.allclose(function(probe), known(probe), atol=1e-6):
            return name
    raise TowerError(f"The text encoder's activation is none of {', '.join(ACTIVATIONS)}.")


def _finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    # One sum is cheaper than a mask, and NaN and infinity survive it.
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise TowerError(f"The weight {name} holds NaN or infinity: the checkpoint is damaged. Load another copy.")
    return tensor
