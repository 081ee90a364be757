"""Anima's ``llm_adapter``, from its weights: what its doors read, made of Qwen3's states at T5's tokens.

Blocks of self-attention over T5's tokens, cross-attention to Qwen3's states and a feed-forward part, each behind an RMS
norm; every token reads every other. Written after ComfyUI's ``ldm/anima/model.py``, whose modules it is tested beside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn import functional as F

from ..layers import NamedLayers, rotary_turns, turned
from ..named_weights import KeptWeights

_EPS, _THETA = 1e-6, 10_000.0


class Adapter(NamedLayers):
    """The adapter, called as ComfyUI's ``Anima.preprocess_text_embeds`` is, without the zeros behind its states.

    Args:
        weights: its parameters; of ``embed.weight`` rows are asked for.
        device: where it computes.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], device: torch.device) -> None:
        # It runs once for each caption.
        self.weights, self.eps, self.device = KeptWeights(weights), _EPS, device
        starts = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
        self._blocks = len(starts)

    def __call__(
        self, states: torch.Tensor, ids: torch.Tensor, t5xxl_weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Qwen3's states (n, tokens, width) and T5's tokens (n, others) to states (n, others, width)."""
        x = self.weights["embed.weight"][ids].to(self.device, torch.float32)
        if "in_proj.weight" in self.weights:
            x = self._linear(x, "in_proj")
        for number in range(self._blocks):
            name = f"blocks.{number}"
            if f"{name}.self_attn.q_proj.weight" in self.weights:
                inputs = self._norm(x, f"{name}.norm_self_attn")
                x = x + self._attention(inputs, inputs, f"{name}.self_attn")
            x = x + self._attention(self._norm(x, f"{name}.norm_cross_attn"), states, f"{name}.cross_attn")
            hidden = F.gelu(self._linear(self._norm(x, f"{name}.norm_mlp"), f"{name}.mlp.0"))
            x = x + self._linear(hidden, f"{name}.mlp.2")
        x = self._norm(self._linear(x, "out_proj"), "norm")
        return x if t5xxl_weights is None else x * t5xxl_weights

    def _attention(self, x: torch.Tensor, context: torch.Tensor, name: str) -> torch.Tensor:
        width = self._weight(f"{name}.q_norm.weight").shape[0]
        q, k, v = (
            self._linear(inputs, f"{name}.{part}_proj").unflatten(-1, (-1, width)).transpose(1, 2)
            for inputs, part in ((x, "q"), (context, "k"), (context, "v"))
        )
        q, k = (_placed(self._norm(heads, f"{name}.{part}_norm")) for heads, part in ((q, "q"), (k, "k")))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self._linear(mixed, f"{name}.o_proj")


def _placed(heads: torch.Tensor) -> torch.Tensor:
    """Heads (n, heads, tokens, width) with their halves turned by their positions."""
    length, width = heads.shape[-2:]
    return turned(heads, rotary_turns(torch.arange(length, device=heads.device), width, _THETA))
