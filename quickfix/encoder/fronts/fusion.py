"""Krea 2's text network, from its weights: what its door reads, made of the states of several layers of Qwen3-VL.

Blocks of attention over the layers of one token, a weighted sum of the layers, then blocks of attention over the
tokens, all without positions; an RMS norm stands before the door. Each attention's output is gated, and norms are
stored less one. Written after ComfyUI's ``ldm/krea2/model.py`` and diffusers' ``transformer_krea2.py``, beside which it
is tested.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..layers import NamedLayers
from ..named_weights import KeptWeights

_EPS = 1e-5
# Of each tree: the network, the norm before the door, and what a block calls its parts.
_PARTS = ("norm_1", "norm_2", "q", "k", "v", "gate", "norm_q", "norm_k", "out", "mlp")
_COMFYUI = (
    *("prenorm.scale", "postnorm.scale", "attn.wq", "attn.wk", "attn.wv", "attn.gate"),
    *("attn.qknorm.qnorm.scale", "attn.qknorm.knorm.scale", "attn.wo", "mlp"),
)
_DIFFUSERS = (
    *("norm1.weight", "norm2.weight", "attn.to_q", "attn.to_k", "attn.to_v", "attn.to_gate"),
    *("attn.norm_q.weight", "attn.norm_k.weight", "attn.to_out.0", "ff"),
)


class Tree(NamedTuple):
    """What a tree calls the text network, the weight of the norm before the door, and the parts of a block."""

    network: str
    last: str
    parts: tuple[str, ...]

    @property
    def projector(self) -> str:
        """The weight that sums up the layers, (1, layers)."""
        return f"{self.network}.projector.weight"


_TREES = (Tree("txtfusion", "txtmlp.0.scale", _COMFYUI), Tree("text_fusion", "txt_in.norm.weight", _DIFFUSERS))


def tree_of(names: Container[str]) -> Tree:
    """ComfyUI's tree or diffusers', by the names of the image model's parameters."""
    return next(tree for tree in _TREES if tree.projector in names)


class Fusion(NamedLayers):
    """The text network and the norm behind it.

    Args:
        weights: the image model's parameters, in ComfyUI's names or diffusers'.
        device: where it computes.
    """

    def __init__(self, weights: Mapping[str, torch.Tensor], device: torch.device) -> None:
        # It runs once for each length of captions.
        self.weights, self.eps, self.device = KeptWeights(weights), _EPS, device
        self._tree = tree_of(weights)
        self._parts = dict(zip(_PARTS, self._tree.parts, strict=True))

    @property
    def layers(self) -> int:
        """How many layers of the text encoder it reads."""
        return int(self._named(self._tree.projector).shape[1])

    def fused(self, states: torch.Tensor) -> torch.Tensor:
        """States (n, tokens, layers, width) to (n, tokens, width), before the norm."""
        x = self._blocks(states.to(self.device, torch.float32).flatten(0, 1), "layerwise_blocks")
        x = x.unflatten(0, states.shape[:2]).transpose(2, 3)
        x = self._linear(x, f"{self._tree.network}.projector").squeeze(-1)
        return self._blocks(x, "refiner_blocks")

    def normed(self, states: torch.Tensor) -> torch.Tensor:
        """What the door reads, of what :meth:`fused` gives."""
        return self._scaled(states, self._tree.last)

    def _blocks(self, x: torch.Tensor, kind: str) -> torch.Tensor:
        number = 0
        while f"{self._tree.network}.{kind}.{number}.{self._parts['norm_1']}" in self.weights:
            x = self._block(x, f"{self._tree.network}.{kind}.{number}.")
            number += 1
        return x

    def _block(self, x: torch.Tensor, name: str) -> torch.Tensor:
        part = {key: name + inner for key, inner in self._parts.items()}
        inputs = self._scaled(x, part["norm_1"])
        width = self._weight(part["norm_q"]).shape[0]
        q, k, v = (self._linear(inputs, part[key]).unflatten(-1, (-1, width)).transpose(1, 2) for key in "qkv")
        q, k = self._scaled(q, part["norm_q"]), self._scaled(k, part["norm_k"])
        # Several queries share a key and a value.
        k, v = (heads.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for heads in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self._linear(mixed * self._linear(inputs, part["gate"]).sigmoid(), part["out"])
        inputs = self._scaled(x, part["norm_2"])
        hidden = F.silu(self._linear(inputs, f"{part['mlp']}.gate")) * self._linear(inputs, f"{part['mlp']}.up")
        return x + self._linear(hidden, f"{part['mlp']}.down")

    def _scaled(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self._weight(name) + 1.0, self.eps)
