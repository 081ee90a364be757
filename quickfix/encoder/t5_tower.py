"""T5's encoder (v1.1, as Flux.1, Stable Diffusion 3 and others read it) as a pure function of named weights.

Every token attends to every other, padding too; how far apart two of them are is told by a bias of the first layer's,
which all layers add. A layer's weights are read when that layer runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from .layers import NamedLayers, blocks_below, own_config
from .towers import TowerError

_DISTANCES = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
_FARTHEST = 128
# Prompts attended at once: a row of 512 tokens and 64 heads has 64 MiB of scores.
_ROWS = 4
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class T5Tower(NamedLayers):
    """T5's encoder.

    Attributes:
        weights: transformers' parameter names ("encoder.block.0.layer.0.SelfAttention.q.weight", ...) to tensors of
            any float type; of the token embeddings ("shared.weight") only rows are asked for.
        num_layers: blocks.
        eps: epsilon of the norms.
        device: where everything is computed; a weight is brought here when it is read.
    """

    weights: Mapping[str, torch.Tensor]
    num_layers: int
    eps: float = 1e-6
    device: torch.device = _CPU
    table: ClassVar[str] = "shared.weight"
    expected: ClassVar[str] = "; expected T5's encoder, version 1.1"

    @classmethod
    def of(cls, weights: Mapping[str, torch.Tensor], config: Any, device: torch.device = _CPU) -> T5Tower:
        """A tower over weights by name; ``config`` is transformers' configuration, as a dict."""
        found = own_config(config, int(weights[cls.table].shape[1]))
        return cls(weights, blocks_below(weights, "encoder.block."), found.get("layer_norm_epsilon", 1e-6), device)

    @torch.no_grad()
    def hidden_states(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """The last hidden states (n, length, width) of prompts of one length, after the final norm.

        Raises:
            TowerError: ids outside of the vocabulary, a weight that is missing, NaN or infinity.
        """
        x = self.embeddings(torch.tensor(rows, dtype=torch.long))
        table = self._weight(_DISTANCES)
        bias = table[_buckets(x.shape[1], table.shape[0])].permute(2, 0, 1).to(self.device)
        for layer in range(self.num_layers):
            x = self._block(x, f"encoder.block.{layer}.layer", bias)
        states = self._norm(x, "encoder.final_layer_norm")
        if not torch.isfinite(states).all():
            raise TowerError("The text encoder gives states that hold NaN or infinity; its weights are damaged.")
        return states

    def _block(self, x: torch.Tensor, name: str, bias: torch.Tensor) -> torch.Tensor:
        attention, forward = f"{name}.0.SelfAttention", f"{name}.1.DenseReluDense"
        inputs = self._norm(x, f"{name}.0.layer_norm")
        q, k, v = (
            self._linear(inputs, f"{attention}.{part}").unflatten(-1, (len(bias), -1)).transpose(1, 2) for part in "qkv"
        )
        # T5 divides by no root of the width.
        mixed = [
            F.scaled_dot_product_attention(q[part], k[part], v[part], attn_mask=bias[None], scale=1.0)
            for part in (slice(start, start + _ROWS) for start in range(0, len(q), _ROWS))
        ]
        x = x + self._linear(torch.cat(mixed).transpose(1, 2).flatten(2), f"{attention}.o")
        inputs = self._norm(x, f"{name}.1.layer_norm")
        gate = F.gelu(self._linear(inputs, f"{forward}.wi_0"), approximate="tanh")
        return x + self._linear(gate * self._linear(inputs, f"{forward}.wi_1"), f"{forward}.wo")


def _buckets(length: int, count: int) -> torch.Tensor:
    """The row of the bias table (query, key) for each distance between two positions.

    One half of the rows is for keys before the query, one for those behind it. In a half, the first half again is for
    single distances, the rest for ranges that widen up to :data:`_FARTHEST`.
    """
    places = torch.arange(length)
    distance = places[None] - places[:, None]
    half = count // 2
    single = half // 2
    far = (distance.abs().clamp_min(1).float() / single).log() / math.log(_FARTHEST / single) * (half - single)
    ranged = (single + far.long()).clamp_max(half - 1)
    return torch.where(distance.abs() < single, distance.abs(), ranged) + half * (distance > 0)
