"""Decoder language models (Qwen3, Qwen2.5-VL) as text encoders: a pure function of named weights, run as far as asked.

A layer's weights are read when that layer runs, so that of a model in a file one layer at a time is in memory. Names
are transformers' and ComfyUI's, without what stands before ``embed_tokens`` and ``layers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from .attention import attend_prefixes
from .layers import NamedLayers, blocks_below, own_config, rotary_turns, turned
from .towers import TowerError

_CPU = torch.device("cpu")
_HEAD_WIDTH = 128


@dataclass(frozen=True)
class DecoderTower(NamedLayers):
    """A decoder language model: RMS norms, rotary positions, grouped queries, gated feed-forward.

    Attributes:
        weights: parameter names ("layers.0.self_attn.q_proj.weight", ...) to tensors of any float type; of the token
            embeddings only rows are asked for.
        num_layers: transformer layers.
        head_width: of an attention head.
        eps: epsilon of the norms.
        theta: base of the rotary positions.
        device: where everything is computed; a weight is brought here when it is read.
    """

    weights: Mapping[str, torch.Tensor]
    num_layers: int
    head_width: int = _HEAD_WIDTH
    eps: float = 1e-6
    theta: float = 1_000_000.0
    device: torch.device = _CPU
    table: ClassVar[str] = "embed_tokens.weight"

    @classmethod
    def of(
        cls, weights: Mapping[str, torch.Tensor], config: Any, theta: float, device: torch.device = _CPU
    ) -> DecoderTower:
        """A tower over weights by name.

        Args:
            config: transformers' configuration, as a dict; what it does not tell is Qwen's.
            theta: base of the rotary positions where the configuration tells none.

        Raises:
            TowerError: heads that the weights cannot be divided into.
        """
        found = own_config(config, int(weights[cls.table].shape[1]))
        norm, heads = "layers.0.self_attn.q_norm.weight", found.get("num_attention_heads")
        width = weights[norm].shape[0] if norm in weights else found.get("head_dim")
        width = width or (found["hidden_size"] // heads if heads else _HEAD_WIDTH)
        rows = weights["layers.0.self_attn.k_proj.weight"].shape[0]
        if rows % width:
            raise TowerError(
                f"The text encoder's keys have {rows} rows, which heads of {width} do not divide. Its config.json is "
                "missing or of another model."
            )
        base = found.get("rope_theta") or (found.get("rope_parameters") or {}).get("rope_theta") or theta
        layers = blocks_below(weights, "layers.")
        return cls(weights, layers, width, found.get("rms_norm_eps", 1e-6), float(base), device)

    @torch.no_grad()
    def prefix_states(
        self, tokens: torch.Tensor, places: torch.Tensor, lookup: torch.Tensor, depths: Sequence[tuple[int, bool]]
    ) -> list[torch.Tensor]:
        """The states of distinct beginnings of prompts, (m, width) each, as :meth:`TextTower.prefix_states`.

        Raises:
            TowerError: ids outside of the vocabulary, a weight that is missing, NaN or infinity.
        """
        tokens, places, lookup = (index.to(self.device) for index in (tokens, places, lookup))
        own = places[lookup] == torch.arange(lookup.shape[1], device=self.device)
        x, found = self.embeddings(tokens), list[torch.Tensor]()
        cosines, sines = rotary_turns(places, self.head_width, self.theta)
        turns = cosines[:, None], sines[:, None]
        for layer in range(max(depth for depth, _ in depths) + 1):
            here = [normed for depth, normed in depths if depth == layer]
            found += [self._norm(x, "norm") if normed else x for normed in here]
            if len(found) < len(depths):
                x = self._block(x, layer, turns, lookup, own)
        if not all(torch.isfinite(states).all() for states in found):
            raise TowerError("The text encoder gives states that hold NaN or infinity; its weights are damaged.")
        return found

    def _block(
        self,
        x: torch.Tensor,
        layer: int,
        turns: tuple[torch.Tensor, torch.Tensor],
        lookup: torch.Tensor,
        own: torch.Tensor,
    ) -> torch.Tensor:
        name = f"layers.{layer}"
        inputs = self._norm(x, f"{name}.input_layernorm")
        q, k, v = (
            self._linear(inputs, f"{name}.self_attn.{part}_proj").unflatten(-1, (-1, self.head_width)) for part in "qkv"
        )
        if f"{name}.self_attn.q_norm.weight" in self.weights:
            q, k = (self._norm(heads, f"{name}.self_attn.{part}_norm") for heads, part in ((q, "q"), (k, "k")))
        q, k = turned(q, turns), turned(k, turns)
        # Several queries share a key and a value.
        k, v = (heads.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for heads in (k, v))
        mixed = attend_prefixes(q.flatten(1), k.flatten(1), v.flatten(1), lookup, own, q.shape[1])
        x = x + self._linear(mixed, f"{name}.self_attn.o_proj")
        inputs = self._norm(x, f"{name}.post_attention_layernorm")
        gate = F.silu(self._linear(inputs, f"{name}.mlp.gate_proj"))
        return x + self._linear(gate * self._linear(inputs, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj")
