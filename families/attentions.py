"""The attentions in which the picture of an image model reads its text, and the maps that make their values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from .sites import Site, SiteError
from .transformer import image_sites

# Lists of blocks that hold text and picture, by the middle of their sites' names.
_LISTS = {
    "double": ("double_blocks", "joint_blocks", "transformer_blocks"),
    "single": ("single_blocks", "single_transformer_blocks", "layers", "blocks"),
}
# Paths in a block of what makes the text's values and the picture's.
_JOINT = (
    ("txt_attn.qkv", "img_attn.qkv"),
    ("context_block.attn.qkv", "x_block.attn.qkv"),
    ("attn.add_v_proj", "attn.to_v"),
    ("linear1", "linear1"),
    ("attention.qkv", "attention.qkv"),
    ("attn.wv", "attn.wv"),
    ("attn.to_v", "attn.to_v"),
)
_CROSS = ("to_v", "v_proj", "v")


class Values(NamedTuple):
    """A map whose output (n, tokens, width) holds an attention's values, in some of its columns."""

    module: nn.Module
    columns: slice


@dataclass(frozen=True)
class TextAttention:
    """An attention in which the picture reads the text.

    Attributes:
        site: where what it gives the picture is seen.
        text: the values of the text; in a block of one sequence those of the picture stand behind them.
        picture: the values of the picture, where it reads itself too.
        beside: what else the attention's output flows through: the text's stream.
    """

    site: Site
    text: Values
    picture: Values | None
    beside: nn.Module | None = None


def text_attentions(model: nn.Module) -> tuple[TextAttention, ...]:
    """The attentions of an image model in which the picture reads the text, in the order in which they run.

    Raises:
        SiteError: the model is of no known make, or its values are made by no map of their own.
    """
    sites = image_sites(model)
    found = tuple(_attentions(model, {site.name: site for site in sites}))
    if not found:
        raise SiteError(f"{type(model).__name__} holds no attention whose values of the text can be told apart.")
    return found


def _attentions(model: nn.Module, sites: dict[str, Site]) -> Iterator[TextAttention]:
    for name, site in sites.items():
        if site.kind == "cross_attn":
            path = next((path for path in _CROSS if hasattr(site.module, path)), None)
            if path is not None:
                yield TextAttention(site, Values(site.module.get_submodule(path), slice(None)), None)
        elif site.kind in ("attn", "update"):
            _, make, number, _ = name.split(".")
            if block := _block(model, make, int(number)):
                text, picture = next(
                    (_values(block, one), _values(block, other)) for one, other in _JOINT if _has(block, one)
                )
                beside = sites.get(name.replace(f".{site.kind}", f".text_{site.kind}"))
                apart = beside is not None and beside.module is not site.module
                yield TextAttention(site, text, picture, beside.module if beside and apart else None)


def _block(model: nn.Module, make: str, number: int) -> nn.Module | None:
    """A block that holds text and picture; None of refiners, which hold one of them."""
    for path in _LISTS.get(make, ()):
        blocks = getattr(model, path, None)
        if isinstance(blocks, nn.ModuleList) and len(blocks):
            return blocks[number]
    return None


def _has(block: nn.Module, path: str) -> bool:
    module: Any = block
    for part in path.split("."):
        module = getattr(module, part, None)
    return isinstance(module, nn.Module)


def _values(block: nn.Module, path: str) -> Values:
    """Where a block's values are: all of a map's output, or what stands behind queries and keys in it."""
    module = block.get_submodule(path)
    height, width = module.weight.shape  # type: ignore[misc,union-attr]
    if path == "linear1":
        # Behind them, what goes into the feed-forward network.
        return Values(module, slice(2 * width, 3 * width))
    if not path.endswith("qkv"):
        return Values(module, slice(None))
    # Several heads may share keys and values.
    return Values(module, slice((height + width) // 2, height))
