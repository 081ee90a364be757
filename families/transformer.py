"""Image transformers as ComfyUI and diffusers build them: their sites, found by the shape of the module tree.

Text and picture run in two streams that attend to each other (``dit.double.3.attn`` is the picture's stream,
``dit.double.3.text_attn`` the text's: Flux.1, Chroma, Flux.2, Stable Diffusion 3, Qwen-Image, HunyuanImage), in one
sequence of both (``dit.single.7.block`` is its picture's positions, ``dit.single.7.text_block`` its text's: the later
blocks of Flux, Z-Image, Lumina 2, Krea 2), or the picture alone, reading the text by cross-attention
(``dit.cross.2.cross_attn``: Anima, Cosmos-Predict2, Wan). ``dit.text_in.entrance`` is what the text states become
before the first block, ``dit.pooled_in.entrance`` what the pooled vector does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from .sites import Site, SiteError, Span
from .unet import UNET_KINDS, unet_sites

TRANSFORMER_KINDS = (
    *("entrance", "attn", "text_attn", "self_attn", "cross_attn", "cross_context"),
    *("feed_forward", "text_feed_forward", "update", "text_update", "block", "text_block"),
)
"""Kinds of sites. ``update`` is what a block adds where its attention and its feed-forward network end in one map."""
IMAGE_KINDS = tuple(dict.fromkeys((*UNET_KINDS, *TRANSFORMER_KINDS)))
"""Those of all image models."""


class _Part(NamedTuple):
    """A site of a block: the path of its module in the block, "" for the block, and which of its outputs it is.

    ``joint`` is for a sequence of text and picture, which makes two sites.
    """

    kind: str
    path: str = ""
    output: int = 0
    joint: bool = False


@dataclass(frozen=True)
class _Blocks:
    """Blocks of one make.

    Attributes:
        name: in sites' names.
        path: of the list of blocks in the model.
        parts: of each block, in the order in which they run; those whose module a block lacks are left out.
        mark: a path that blocks of this make have, and others under the same path have not.
        needs: for a part's kind, the path without which a block does not compute it.
    """

    name: str
    path: str
    parts: tuple[_Part, ...]
    mark: str
    needs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Make:
    """One make of transformer.

    Attributes:
        blocks: in the order in which they run.
        text, pooled: paths of what brings in the text states and the pooled vector; where there are several, the last
            that a model has counts.
        gauge: the path of a list of blocks, or of a module, whose output is as long as the text within the joint
            sequence, and which of its outputs; "" where there is none.
    """

    blocks: tuple[_Blocks, ...]
    text: tuple[str, ...] = ()
    pooled: tuple[str, ...] = ()
    gauge: tuple[str, int] = ("", 0)


def _streams(image: str, text: str, forward: str, text_forward: str, order: tuple[int, int]) -> tuple[_Part, ...]:
    """Of a block of two streams whose attentions end in a module each; ``order`` of its outputs, picture and text."""
    return (
        _Part("attn", image),
        _Part("text_attn", text),
        _Part("feed_forward", forward),
        _Part("text_feed_forward", text_forward),
        _Part("block", "", order[0]),
        _Part("text_block", "", order[1]),
    )


def _shared(attention: str, forward: str, text_forward: str) -> tuple[_Part, ...]:
    """Of a block of two streams with one attention that gives (picture, text), and gives (text, picture) itself."""
    return (
        _Part("attn", attention, 0),
        _Part("text_attn", attention, 1),
        _Part("feed_forward", forward),
        _Part("text_feed_forward", text_forward),
        _Part("block", "", 1),
        _Part("text_block", "", 0),
    )


def _sequence(attention: str, forward: str) -> tuple[_Part, ...]:
    """Of a block whose one stream holds text and picture."""
    return _Part("attn", attention, 0, True), _Part("feed_forward", forward, 0, True), _Part("block", "", 0, True)


def _alone(attention: str, forward: str, prefix: str = "") -> tuple[_Part, ...]:
    return tuple(
        _Part(f"{prefix}{kind}", path) for kind, path in (("attn", attention), ("feed_forward", forward), ("block", ""))
    )


def _crossing(forward: str) -> tuple[_Part, ...]:
    return (
        _Part("self_attn", "self_attn"),
        _Part("cross_attn", "cross_attn"),
        _Part("cross_context", "cross_attn"),
        _Part("feed_forward", forward),
        _Part("block"),
    )


_MAKES = (
    # Flux.1, Flux.2, Chroma, LongCat, Ovis and HunyuanImage in ComfyUI.
    _Make(
        (
            _Blocks(
                "double",
                "double_blocks",
                _streams("img_attn.proj", "txt_attn.proj", "img_mlp", "txt_mlp", (0, 1)),
                "txt_mlp",
            ),
            _Blocks(
                "single",
                "single_blocks",
                (_Part("update", "linear2", 0, True), _Part("block", "", 0, True)),
                "linear2",
            ),
        ),
        text=("txt_norm", "txt_in"),
        pooled=("vector_in",),
        gauge=("double_blocks", 1),
    ),
    # Stable Diffusion 3 in ComfyUI; in 3.5 medium the picture's stream has a second attention, to itself.
    _Make(
        (
            _Blocks(
                "double",
                "joint_blocks",
                (
                    *_streams(
                        "x_block.attn.proj", "context_block.attn.proj", "x_block.mlp", "context_block.mlp", (1, 0)
                    ),
                    _Part("self_attn", "x_block.attn2.proj"),
                ),
                "context_block",
                (("text_block", "context_block.mlp"),),
            ),
        ),
        text=("context_embedder",),
        pooled=("y_embedder",),
    ),
    # Qwen-Image, in both trees.
    _Make(
        (_Blocks("double", "transformer_blocks", _shared("attn", "img_mlp", "txt_mlp"), "txt_mlp"),),
        text=("txt_in",),
    ),
    # Flux.1 and Stable Diffusion 3 in diffusers.
    _Make(
        (
            _Blocks(
                "double",
                "transformer_blocks",
                _shared("attn", "ff", "ff_context"),
                "norm1_context",
                (("text_block", "ff_context"), ("text_attn", "ff_context")),
            ),
            _Blocks(
                "single",
                "single_transformer_blocks",
                (_Part("update", "proj_out", 0, True), _Part("block", "", 1), _Part("text_block", "", 0)),
                "proj_out",
            ),
        ),
        text=("context_embedder",),
        pooled=("time_text_embed.text_embedder",),
        gauge=("transformer_blocks", 0),
    ),
    # Z-Image, Lumina 2 and NewBie in ComfyUI.
    _Make(
        (
            _Blocks(
                "text_refiner",
                "context_refiner",
                _alone("attention", "feed_forward", "text_"),
                "feed_forward",
            ),
            _Blocks("image_refiner", "noise_refiner", _alone("attention", "feed_forward"), "feed_forward"),
            _Blocks("single", "layers", _sequence("attention", "feed_forward"), "feed_forward"),
        ),
        text=("cap_embedder",),
        pooled=("clip_text_pooled_proj",),
        gauge=("context_refiner", 0),
    ),
    # Krea 2.
    _Make(
        (_Blocks("single", "blocks", _sequence("attn", "mlp"), "prenorm"),),
        text=("txtfusion", "txtmlp"),
        gauge=("txtmlp", 0),
    ),
    # Anima and Cosmos-Predict2, and Wan.
    _Make((_Blocks("cross", "blocks", _crossing("mlp"), "adaln_modulation_cross_attn"),)),
    _Make((_Blocks("cross", "blocks", _crossing("ffn"), "modulation"),), text=("text_embedding",)),
)


def transformer_sites(model: nn.Module) -> tuple[Site, ...]:
    """The sites of an image transformer in the order in which they run.

    Raises:
        SiteError: its blocks are of no known make.
    """
    for make in _MAKES:
        if _is_made_so(model, make.blocks[0]):
            return tuple(_sites_of(model, make))
    raise SiteError(
        f"{type(model).__name__} holds no blocks that can be traced: neither a UNet's with cross-attention (Stable "
        "Diffusion 1.x, 2.x, SDXL) nor a transformer's of a known make (Flux.1, Flux.2, Chroma, Stable Diffusion 3, "
        "Qwen-Image, HunyuanImage, Z-Image, Lumina 2, Krea 2, Anima, Cosmos-Predict2, Wan)."
    )


def image_sites(model: nn.Module) -> tuple[Site, ...]:
    """The sites of an image model, UNet or transformer, in the order in which they run.

    Raises:
        SiteError: it is of no known make.
    """
    is_unet = any(hasattr(model, name) for name in ("input_blocks", "down_blocks"))
    return unet_sites(model) if is_unet else transformer_sites(model)


def _is_made_so(model: nn.Module, blocks: _Blocks) -> bool:
    listed = list(_children(model, blocks.path))
    return bool(listed) and _at(listed[0], blocks.mark)


def _sites_of(model: nn.Module, make: _Make) -> Iterator[Site]:
    for place, paths in (("text_in", make.text), ("pooled_in", make.pooled)):
        found = [path for path in paths if _module(model, path) is not None]
        if found:
            yield Site(f"dit.{place}.entrance", "entrance", model.get_submodule(found[-1]))
    gauge = _gauge(model, *make.gauge)
    for blocks in make.blocks:
        for number, block in enumerate(_children(model, blocks.path)):
            yield from _block_sites(f"dit.{blocks.name}.{number}", block, blocks, gauge)


def _block_sites(name: str, block: nn.Module, blocks: _Blocks, gauge: tuple[nn.Module, int] | None) -> Iterator[Site]:
    needs = dict(blocks.needs)
    for part in blocks.parts:
        module = block if not part.path else _module(block, part.path)
        if module is None or (part.kind in needs and not _at(block, needs[part.kind])):
            continue
        if not part.joint:
            yield Site(f"{name}.{part.kind}", part.kind, module, output=part.output)
        elif gauge is not None:
            for prefix, text in (("", False), ("text_", True)):
                kind = prefix + part.kind
                yield Site(f"{name}.{kind}", kind, module, output=part.output, span=Span(*gauge, text=text))


def _gauge(model: nn.Module, path: str, output: int) -> tuple[nn.Module, int] | None:
    if not path:
        return None
    module = model.get_submodule(path)
    return (module[-1] if isinstance(module, nn.ModuleList) else module), output


def _children(model: nn.Module, path: str) -> Iterator[nn.Module]:
    listed = _module(model, path)
    return listed.children() if isinstance(listed, nn.ModuleList) else iter(())


def _at(module: nn.Module, path: str) -> bool:
    return _value(module, path) is not None


def _module(module: nn.Module, path: str) -> nn.Module | None:
    found = _value(module, path)
    return found if isinstance(found, nn.Module) else None


def _value(module: object, path: str) -> object | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
