"""UNets with cross-attention: Stable Diffusion 1.x, 2.x and SDXL, as ComfyUI and diffusers build them."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from .sites import Site, SiteError

UNET_KINDS = ("self_attn", "cross_attn", "cross_context", "feed_forward", "resnet", "block")


_DROPPED = r"transformer_blocks|attentions|resnets"


def unet_sites(module: nn.Module) -> tuple[Site, ...]:
    """The sites of a UNet in the order in which they run, for ComfyUI's UNet and for diffusers'.

    Transformer blocks are known by ``attn1``, ``attn2`` and ``ff``; residual blocks by their two convolutions; the
    output of a block is that of its last part, since ComfyUI calls the parts and never the block itself.

    Raises:
        SiteError: no such block was found.
    """
    sites: list[Site] = []
    groups = [
        name
        for name in ("input_blocks", "down_blocks", "middle_block", "mid_block", "output_blocks", "up_blocks")
        if isinstance(getattr(module, name, None), nn.Module)
    ]
    for group in groups:
        for path, child in getattr(module, group).named_modules(prefix=group):
            base = _short(path)
            sites += [Site(f"{base}.{kind}", kind, part) for kind, part in _parts(child)]
        sites += _block_outputs(group, getattr(module, group))
    if not sites:
        raise SiteError(
            f"{type(module).__name__} holds no UNet blocks (input_blocks, middle_block, output_blocks, or diffusers' "
            "names). UNet tracing needs a UNet with cross-attention, such as Stable Diffusion 1.x, 2.x or SDXL."
        )
    return tuple(sites)


def _parts(module: Any) -> list[tuple[str, nn.Module]]:
    if hasattr(module, "attn1") and hasattr(module, "ff"):
        found = [("self_attn", module.attn1)]
        if getattr(module, "attn2", None) is not None:
            found += [("cross_attn", module.attn2), ("cross_context", module.attn2)]
        return [*found, ("feed_forward", module.ff)]
    residual = hasattr(module, "in_layers") and hasattr(module, "out_layers")
    if residual or (hasattr(module, "conv1") and hasattr(module, "conv2") and hasattr(module, "norm1")):
        return [("resnet", module)]
    return []


def _block_outputs(group: str, blocks: nn.Module) -> list[Site]:
    if group in ("input_blocks", "output_blocks"):
        return [
            Site(f"{_short(f'{group}.{number}')}.block", "block", list(block.children())[-1])
            for number, block in blocks.named_children()
        ]
    return [Site("unet.middle.block", "block", list(blocks.children())[-1])] if group == "middle_block" else []


def _short(path: str) -> str:
    """ "input_blocks.4.1.transformer_blocks.0" as "unet.input.4.1"; later transformer blocks keep their number."""
    group, *rest = path.split(".")
    names = [re.sub("_blocks?$", "", group)]
    for before, part in zip([group, *rest], rest, strict=False):
        if re.fullmatch(_DROPPED, part) or (before == "transformer_blocks" and part == "0"):
            continue
        names.append(f"{before[0]}{part}" if before in ("transformer_blocks", "attentions", "resnets") else part)
    return ".".join(["unet", *names])
