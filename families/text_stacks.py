"""The transformer stacks of text encoders, found by the shape of the module tree, and their sites.

Four shapes are known: CLIP's (``encoder.layers`` of blocks with ``self_attn`` and ``mlp``), T5's and UMT5's
(``encoder.block``), decoder language models' (``layers`` beside ``embed_tokens``: Qwen, Gemma, Llama, Mistral), and
Jina's (``encoder.layers`` of blocks with ``mixer`` and ``mlp``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from .sites import Site, SiteError

TEXT_KINDS = ("self_attn", "mlp", "hidden")
SITE_KINDS = (*TEXT_KINDS, "tap", "pooled")
"""Kinds of site of a text encoder: those of a layer; a hidden state that the encoder hands to the image model beside
others (``tap``); and the vector that it makes of a whole prompt (``pooled``)."""
ENCODER_NAMES = ("l", "g", "h", "t5", "umt5", "byt5", "qwen", "gemma", "llama", "mistral", "jina")
"""Names of text encoders where a model may have several, as they stand in the names of sites."""
# What a text encoder's module is called holds one of these; the longer ones first.
_KNOWN = ("umt5", "byt5", "t5", "qwen", "gemma", "llama", "mistral", "jina")


@dataclass(frozen=True)
class TextStack:
    """The layers of one text encoder.

    Attributes:
        shape: "clip", "t5", "decoder" or "jina".
        layers: for each layer, its modules by :data:`TEXT_KINDS`.
        entry: what is given the token embeddings: the first layer, or the module that holds the layers (its keyword
            argument ``embeds``).
    """

    shape: str
    layers: tuple[Mapping[str, nn.Module], ...] = field(repr=False)
    entry: nn.Module = field(repr=False)

    @property
    def causal(self) -> bool:
        """Whether a token's state depends on nothing that stands behind it."""
        return self.shape in ("clip", "decoder")

    def sites(self, name: str = "") -> tuple[Site, ...]:
        """The sites in running order, layer by layer, in the order of :data:`TEXT_KINDS`.

        Args:
            name: of the encoder among several; "" where it is the only one.
        """
        head = f"text.{name}" if name else "text"
        return tuple(
            Site(f"{head}.{number}.{kind}", kind, modules[kind])
            for number, modules in enumerate(self.layers)
            for kind in TEXT_KINDS
        )


def text_stack(module: nn.Module) -> TextStack:
    """The stack of layers in a text encoder's module; a vision tower beside it is not looked at.

    Raises:
        SiteError: there is no such thing in the module, or more than one; or its token embeddings enter at places that
            cannot all be reached.
    """
    for find in (_decoder, _t5, _encoder):
        found = {id(stack.layers[0]["hidden"]): stack for child in module.modules() for stack in find(child)}
        if len(found) > 1:
            raise SiteError(
                f"Found {len(found)} stacks of transformer layers in {type(module).__name__}; expected one text "
                "encoder. Trace one text encoder at a time."
            )
        for stack in found.values():
            return stack
    raise SiteError(
        f"Found no stack of transformer layers in {type(module).__name__}; expected a text encoder of the shape of "
        "CLIP, T5, Jina or a decoder language model."
    )


def text_sites(module: nn.Module) -> tuple[Site, ...]:
    """The sites of a model's only text encoder: ``text.0.self_attn``, ... (:func:`text_stack` for the errors)."""
    return text_stack(module).sites()


def output_sites(encoder: nn.Module, name: str, taps: Sequence[int], *, pooled: bool) -> tuple[Site, ...]:
    """The sites of what a whole text encoder returns, (states, pooled vector, ...), behind those of its layers.

    Args:
        encoder: the module that returns states (rows, taps, tokens, width) where it has taps, and (rows, width).
        taps: the layers whose inputs are handed on side by side, in the order in which they stand; 9 is the hidden
            state behind nine layers, ``hidden_states[9]`` elsewhere.
        pooled: whether the pooled vector is read.
    """
    tapped = tuple(Site(f"text.{name}.{layer}.tap", "tap", encoder, slot=slot) for slot, layer in enumerate(taps))
    vector = (Site(f"text.{name}.pooled", "pooled", encoder, output=1),) if pooled else ()
    return (*tapped, *vector)


def encoder_names(modules: Sequence[str]) -> tuple[str, ...]:
    """Short names for text encoders, by what their modules are called: "l" of clip_l, "t5" of t5xxl, "qwen" of
    qwen3_4b. An unknown one, and two that would have one name, keep their own."""
    short = [_short(module) for module in modules]
    return tuple(
        one if short.count(one) == 1 else module.replace(".", "_") for one, module in zip(short, modules, strict=True)
    )


def _short(module: str) -> str:
    if re.fullmatch(r"clip_[a-z]", module):
        return module.removeprefix("clip_")
    return next((known for known in _KNOWN if known in module), module.replace(".", "_"))


def _decoder(module: nn.Module) -> Iterator[TextStack]:
    layers: Any = getattr(module, "layers", None)
    if not (isinstance(layers, nn.ModuleList) and len(layers) and hasattr(module, "embed_tokens")):
        return
    if hasattr(module, "embed_tokens_per_layer"):
        raise SiteError(
            f"{type(module).__name__} reads the tokens again in every layer (embeddings of their own for each), which "
            "a corruption of the token embeddings would not reach; it cannot be traced."
        )
    yield from _stack("decoder", layers, (("self_attn", "linear_attn"), ("mlp",)), module)


def _encoder(module: nn.Module) -> Iterator[TextStack]:
    layers: Any = getattr(getattr(module, "encoder", None), "layers", None)
    if isinstance(layers, nn.ModuleList) and len(layers):
        yield from _stack("clip", layers, (("self_attn",), ("mlp",)), layers[0])
        yield from _stack("jina", layers, (("mixer",), ("mlp",)), module)


def _stack(
    shape: str, layers: nn.ModuleList, names: tuple[tuple[str, ...], tuple[str, ...]], entry: nn.Module
) -> Iterator[TextStack]:
    found = []
    for layer in layers:
        attention, mlp = (next((getattr(layer, name) for name in some if hasattr(layer, name)), None) for some in names)
        if attention is None or mlp is None:
            return
        found.append({"self_attn": attention, "mlp": mlp, "hidden": layer})
    yield TextStack(shape, tuple(found), entry)


def _t5(module: nn.Module) -> Iterator[TextStack]:
    blocks: Any = getattr(getattr(module, "encoder", None), "block", None)
    if not (isinstance(blocks, nn.ModuleList) and len(blocks)):
        return
    found = []
    for block in blocks:
        parts: Any = getattr(block, "layer", None)
        if not (isinstance(parts, nn.ModuleList) and len(parts) > 1):
            return
        attention, mlp = getattr(parts[0], "SelfAttention", None), getattr(parts[-1], "DenseReluDense", None)
        if attention is None or mlp is None:
            return
        found.append({"self_attn": attention, "mlp": mlp, "hidden": block})
    yield TextStack("t5", tuple(found), blocks[0])
