"""CLIP's text tower as a function of its weights, run no further than an edit needs.

The weights are read by CLIP's parameter names, which ComfyUI's and transformers' modules share, through any mapping: a
module's parameters, a checkpoint file's tensors, a patcher's base weights. Only the tensors that a computation needs are
asked for, so layers behind the edited one are never touched. Everything is computed in fp32 on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

ACTIVATIONS = {
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "gelu": F.gelu,
}
_TOKENS = "embeddings.token_embedding.weight"
_PLACES = "embeddings.position_embedding.weight"
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")


class TowerError(ValueError):
    """A text tower whose weights, names or inputs cannot be used."""


def out_proj_name(layer: int) -> str:
    """Name of the edited weight: the output projection of a layer's self-attention."""
    return f"encoder.layers.{layer}.self_attn.out_proj.weight"


@dataclass(frozen=True)
class TextTower:
    """A CLIP text encoder.

    Attributes:
        weights: parameter name ("encoder.layers.0.layer_norm1.weight", ...) to tensor.
        heads: attention heads.
        activation: "quick_gelu" (OpenAI's CLIP-L) or "gelu" (OpenCLIP).
        eps: epsilon of the layer norms.
    """

    weights: Mapping[str, torch.Tensor] = field(repr=False)
    heads: int
    activation: str = "quick_gelu"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise TowerError(f"Unknown activation {self.activation!r}; expected one of {', '.join(ACTIVATIONS)}.")
        missing = [name for name in (_TOKENS, _PLACES, out_proj_name(0)) if name not in self.weights]
        if missing:
            raise TowerError(f"Not a CLIP text encoder: it has no {missing[0]}. T5 and other encoders cannot be edited.")

    @classmethod
    def from_weights(
        cls, weights: Mapping[str, torch.Tensor], *, heads: int, activation: str = "quick_gelu", eps: float = 1e-5
    ) -> TextTower:
        """A tower over any mapping of CLIP's parameter names to tensors."""
        return cls(weights, heads, activation, eps)

    @classmethod
    def from_module(cls, module: torch.nn.Module) -> TextTower:
        """A tower over the parameters of transformers' or ComfyUI's CLIP text model.

        The parameters are read when a computation needs them, so it always sees their current values.
        """
        inner: Any = getattr(module, "text_model", module)
        try:
            layer = inner.encoder.layers[0]
        except AttributeError:
            raise TowerError(f"{type(module).__name__} is not a CLIP text model: it has no encoder.layers.") from None
        heads = getattr(layer.self_attn, "num_heads", None) or layer.self_attn.heads
        config = getattr(module, "config", None)
        if config is not None:
            return cls(dict(inner.named_parameters()), heads, config.hidden_act, config.layer_norm_eps)
        exact = layer.mlp.activation is F.gelu
        return cls(dict(inner.named_parameters()), heads, "gelu" if exact else "quick_gelu", layer.layer_norm1.eps)

    @property
    def num_layers(self) -> int:
        found = (_LAYER.match(name) for name in self.weights)
        return 1 + max(int(match.group(1)) for match in found if match)

    @property
    def context_length(self) -> int:
        return self.weights[_PLACES].shape[0]

    def weight(self, name: str) -> torch.Tensor:
        """One parameter in fp32 on the CPU.

        Raises:
            TowerError: there is no such parameter, or it holds NaN or infinity.
        """
        if name not in self.weights:
            raise TowerError(f"The text encoder has no {name}.")
        return _finite(name, self.weights[name].detach().to("cpu", torch.float32))

    def check_layer(self, layer: int) -> None:
        """Refuse a layer that the tower does not have."""
        if not 0 <= layer < self.num_layers:
            raise TowerError(f"Layer {layer} does not exist: the text encoder has layers 0 to {self.num_layers - 1}.")

    def attention_inputs(self, ids: torch.Tensor, layer: int) -> torch.Tensor:
        """The keys: what ``out_proj`` of a layer's self-attention receives.

        Args:
            ids: token ids, (n, length).
            layer: which layer; the ones behind it are not run.

        Returns:
            (n, length, width).
        """
        return self.at_attention(ids, layer)[1]

    def at_attention(self, ids: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream in front of a layer, and the input of its ``out_proj``; both (n, length, width)."""
        self.check_layer(layer)
        if layer == 0:
            return self._at_first_attention(ids)
        x = self._embed(ids, torch.arange(ids.shape[1]))
        for index in range(layer):
            x = self._layer(x, index, {})
        normed = self._norm(x, f"encoder.layers.{layer}.layer_norm1")
        return x, self._attend(*(self._project(normed, layer, part) for part in "qkv"))

    def hidden_states(self, ids: torch.Tensor, replaced: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The encoder's final states (after the final layer norm), (n, length, width).

        Args:
            ids: token ids, (n, length).
            replaced: weights to use in place of the tower's own, by name.
        """
        x = self._embed(ids, torch.arange(ids.shape[1]))
        for index in range(self.num_layers):
            x = self._layer(x, index, replaced or {})
        return self._norm(x, "final_layer_norm")

    def _at_first_attention(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # In layer 0 the query, key and value of a token depend on its id and its position alone: each distinct pair is
        # projected once, however many captions share it (all the padding, all the common words).
        length = ids.shape[1]
        pairs, where = torch.unique(ids * length + torch.arange(length), return_inverse=True)
        x = self._embed(pairs // length, pairs % length)
        normed = self._norm(x, "encoder.layers.0.layer_norm1")
        return x[where], self._attend(*(self._project(normed, 0, part)[where] for part in "qkv"))

    def _embed(self, ids: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        table, positions = self.weights[_TOKENS], self.weights[_PLACES]
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < table.shape[0]:
            raise TowerError(f"Token id {int(ids.max())} is outside the vocabulary of {table.shape[0]} words.")
        if int(places.max()) >= positions.shape[0]:
            raise TowerError(f"{int(places.max()) + 1} tokens are more than the {positions.shape[0]} that CLIP can place.")
        rows = table.detach()[ids.to(table.device)] if table.dtype.itemsize > 1 else table.detach().float()[ids]
        return _finite(_TOKENS, rows.to("cpu", torch.float32)) + self.weight(_PLACES)[places]

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weight(f"{name}.weight"), self.weight(f"{name}.bias"), self.eps)

    def _project(self, x: torch.Tensor, layer: int, part: str) -> torch.Tensor:
        name = f"encoder.layers.{layer}.self_attn.{part}_proj"
        return F.linear(x, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)

    def _layer(self, x: torch.Tensor, index: int, replaced: Mapping[str, torch.Tensor]) -> torch.Tensor:
        prefix = f"encoder.layers.{index}"
        normed = self._norm(x, f"{prefix}.layer_norm1")
        mixed = self._attend(*(self._project(normed, index, part) for part in "qkv"))
        out = out_proj_name(index)
        weight = replaced[out] if out in replaced else self.weight(out)
        x = x + F.linear(mixed, weight, self.weight(f"{prefix}.self_attn.out_proj.bias"))
        hidden = self._norm(x, f"{prefix}.layer_norm2")
        hidden = F.linear(hidden, self.weight(f"{prefix}.mlp.fc1.weight"), self.weight(f"{prefix}.mlp.fc1.bias"))
        hidden = ACTIVATIONS[self.activation](hidden)
        return x + F.linear(hidden, self.weight(f"{prefix}.mlp.fc2.weight"), self.weight(f"{prefix}.mlp.fc2.bias"))


def _finite(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(tensor).all():
        raise TowerError(f"{name} holds NaN or infinity: the text encoder's weights are damaged or overflowed in fp16.")
    return tensor
