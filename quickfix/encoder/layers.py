"""What text encoders other than CLIP, and adapters behind them, are made of: layers by the names of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from .towers import TowerError


class NamedLayers:
    """Layers whose weights are read by name when they run, and computed with in fp32.

    Attributes:
        weights: parameter names to tensors of any float type.
        eps: epsilon of the norms.
        device: where everything is computed; a weight is brought here when it is read.
        table: the name of the token embeddings, of which only rows are asked for.
        expected: what an error says behind the name of a missing weight.
    """

    weights: Mapping[str, torch.Tensor]
    eps: float
    device: torch.device
    table: ClassVar[str]
    expected: ClassVar[str] = ""

    @property
    def width(self) -> int:
        """Width of the states."""
        return int(self._named(self.table).shape[1])

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self._named(self.table).shape[0])

    def embeddings(self, tokens: torch.Tensor) -> torch.Tensor:
        """The embeddings (..., width) of some tokens (TowerError: an id outside of the vocabulary)."""
        table = self._named(self.table)
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < table.shape[0]:
            raise TowerError(
                f"Token ids go up to {int(tokens.max())}, the vocabulary has {table.shape[0]}; the tokenizer and the "
                "text encoder do not belong together."
            )
        return table[tokens.to(table.device)].to(self.device, torch.float32)

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        bias = f"{name}.bias"
        return F.linear(x, self._weight(f"{name}.weight"), self._weight(bias) if bias in self.weights else None)

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.rms_norm(x, x.shape[-1:], self._weight(f"{name}.weight"), self.eps)

    def _weight(self, name: str) -> torch.Tensor:
        return self._named(name).to(self.device, torch.float32)

    def _named(self, name: str) -> torch.Tensor:
        try:
            return self.weights[name]
        except KeyError as error:
            raise TowerError(f"The text encoder has no weight named {name}{self.expected}.") from error


# What the first layer is called below each kind of text encoder, and the table of its tokens' embeddings.
_FIRST = {
    "qwen": ("layers.0.self_attn.q_proj.weight", "embed_tokens.weight"),
    "t5": ("encoder.block.0.layer.0.SelfAttention.q.weight", ""),
}


def encoder_starts(names: Iterable[str], kind: str) -> list[str]:
    """What stands before the names of each text encoder of a kind, "qwen" or "t5", among some parameters' names."""
    every = set(names)
    end, table = _FIRST[kind]
    starts = sorted(name.removesuffix(end) for name in every if name.endswith(end))
    return [start for start in starts if not table or start + table in every]


def own_config(config: Any, width: int) -> dict[str, Any]:
    """The part of a transformers configuration that is about an encoder of a width; nothing where none is."""
    for part in (config, config.get("text_config") if isinstance(config, dict) else None):
        if isinstance(part, dict) and part.get("hidden_size", part.get("d_model")) == width:
            return part
    return {}


def blocks_below(names: Iterable[str], start: str) -> int:
    """How many numbered blocks there are under a name."""
    numbers = {name[len(start) :].split(".")[0] for name in names if name.startswith(start)}
    return len([number for number in numbers if number.isdecimal()])


def rotary_turns(places: torch.Tensor, width: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines (m, width) by which the halves of a head are turned at each position."""
    speeds = theta ** (-torch.arange(0, width, 2, device=places.device).float() / width)
    angles = (places[:, None].float() * speeds).repeat(1, 2)
    return angles.cos(), angles.sin()


def turned(heads: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Heads (..., width) with their halves turned, by what :func:`rotary_turns` gives (Su et al. 2021)."""
    first, second = heads.chunk(2, dim=-1)
    return heads * turns[0] + torch.cat((-second, first), dim=-1) * turns[1]
