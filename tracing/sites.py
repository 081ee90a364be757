"""Sites: the places of a model whose output can be restored, found by the shape of the module tree.

Names are stable and printable: ``text.0.self_attn`` in a text encoder, ``unet.input.4.1.cross_attn`` in a UNet. They
follow the path of the module, without the words that say nothing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

TEXT_KINDS = ("self_attn", "mlp", "hidden")
UNET_KINDS = ("self_attn", "cross_attn", "cross_context", "feed_forward", "resnet", "block")

_DROPPED = re.compile(r"^(transformer_blocks|attentions|resnets)$")


class SiteError(ValueError):
    """A model without sites, or a selection of none."""


@dataclass(frozen=True)
class Site:
    """One place of a model.

    Attributes:
        name: "text.0.self_attn", "unet.middle.1.cross_attn", ...
        kind: one of :data:`TEXT_KINDS` or :data:`UNET_KINDS`. ``hidden`` is a text layer's residual stream, ``block`` a
            UNet block's output; ``cross_context`` is the text that a cross-attention reads, not what it returns.
        module: the module that computes it. For ``cross_context`` it is the cross-attention, and its input is meant.
    """

    name: str
    kind: str
    module: nn.Module = field(repr=False, compare=False)

    @property
    def component(self) -> str:
        """ "text" or "unet"."""
        return self.name.split(".", 1)[0]


def text_sites(module: nn.Module) -> tuple[Site, ...]:
    """The sites of a CLIP text encoder, layer by layer, in the order of :data:`TEXT_KINDS`.

    Any module that holds ``encoder.layers`` of blocks with ``self_attn`` and ``mlp`` will do.

    Raises:
        SiteError: there is no such thing in the module, or more than one.
    """
    stacks = [
        layers
        for _, child in module.named_modules()
        if isinstance(layers := getattr(getattr(child, "encoder", None), "layers", None), nn.ModuleList)
        and layers
        and all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers)
    ]
    if len({id(layers) for layers in stacks}) != 1:
        raise SiteError(
            f"Found {len(stacks)} stacks of transformer layers in {type(module).__name__}; expected one CLIP text "
            "encoder. Trace one text encoder at a time."
        )
    return tuple(
        Site(f"text.{number}.{kind}", kind, layer if kind == "hidden" else getattr(layer, kind))
        for number, layer in enumerate(stacks[0])
        for kind in TEXT_KINDS
    )


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
        if _DROPPED.match(part) or (before == "transformer_blocks" and part == "0"):
            continue
        names.append(f"{before[0]}{part}" if before in ("transformer_blocks", "attentions", "resnets") else part)
    return ".".join(["unet", *names])


def select(sites: Iterable[Site], *, kinds: Sequence[str] | None = None, names: str | None = None) -> tuple[Site, ...]:
    """The sites of some kinds whose names fit one of several patterns.

    Args:
        names: shell patterns divided by commas or spaces, such as ``"unet.input.*, unet.middle.*"``; a range of numbers
            is written ``text.[0-3].*``.

    Raises:
        SiteError: nothing fits; the message lists what there is.
    """
    sites = tuple(sites)
    patterns = (names or "*").replace(",", " ").split()
    chosen = tuple(
        site
        for site in sites
        if (kinds is None or site.kind in kinds) and any(fnmatch.fnmatchcase(site.name, p) for p in patterns)
    )
    if not chosen:
        there = ", ".join(site.name for site in sites[:8]) + (", ..." if len(sites) > 8 else "")
        raise SiteError(f"No site fits kinds {kinds or 'all'} and names {names or '*'}; this model has {there}.")
    return chosen


def windows(sites: Sequence[Site], size: int) -> tuple[tuple[Site, ...], ...]:
    """Groups of ``size`` neighbouring sites of one kind, slid one by one; groups are restored together.

    A kind with fewer sites than ``size`` gives one group of all of them.

    Raises:
        SiteError: ``size`` is below one.
    """
    if size < 1:
        raise SiteError(f"A window holds at least one site; got {size}.")
    groups: list[tuple[Site, ...]] = []
    for kind in dict.fromkeys(site.kind for site in sites):
        line = [site for site in sites if site.kind == kind]
        width = min(size, len(line))
        groups += [tuple(line[start : start + width]) for start in range(len(line) - width + 1)]
    return tuple(groups)


def group_name(group: Sequence[Site]) -> str:
    """The name of a window: its site's own, or "first..last" with the shared kind once."""
    if len(group) == 1:
        return group[0].name
    first, last = (site.name.removesuffix(f".{site.kind}") for site in (group[0], group[-1]))
    return f"{first}..{last.split('.', 1)[1]}.{group[0].kind}"
