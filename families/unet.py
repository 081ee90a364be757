"""UNets with cross-attention: Stable Diffusion 1.x, 2.x and SDXL, as ComfyUI and diffusers build them.

A site's name counts as diffusers does, whatever the tree: ``unet.down.1.a0.cross_attn`` is the first attention of the
second level on the way down, ``r0`` a residual block, ``d0`` and ``u0`` what changes the size, ``b0`` a residual block
with the attention behind it. ``unet.pooled_in.entrance`` is what SDXL's pooled vector becomes. ComfyUI numbers all
blocks of a way through; ``unet.input.4.1.cross_attn`` is the same site, and such names are understood where patterns
are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .sites import Site, SiteError

UNET_KINDS = ("self_attn", "cross_attn", "cross_context", "feed_forward", "resnet", "block", "entrance")
# What all of these models have; ComfyUI's numbers in a file say nothing else.
_RESNETS_OF_A_LEVEL = 2


@dataclass(frozen=True)
class _Part:
    """A module of a UNet that may hold sites; ``name`` and ``alias`` are those of its place, "down.1.a0"."""

    name: str
    alias: str
    module: nn.Module
    # It is a whole block, of which only the output is a site.
    whole: bool = False


def unet_sites(module: nn.Module) -> tuple[Site, ...]:
    """The sites of a UNet in the order in which they run, for ComfyUI's UNet and for diffusers'.

    Transformer blocks are known by ``attn1``, ``attn2`` and ``ff``; residual blocks by their two convolutions; the
    output of a block is that of its last part, since ComfyUI calls the parts and never the block itself.

    Raises:
        SiteError: no such block was found.
    """
    parts = _comfyui_parts(module) if hasattr(module, "input_blocks") else _diffusers_parts(module)
    sites = tuple(itertools.chain(_pooled_in(module), *map(_sites_of, parts)))
    if not any(site.kind not in ("block", "entrance") for site in sites):
        raise SiteError(
            f"{type(module).__name__} holds no UNet blocks (input_blocks, middle_block, output_blocks, or diffusers' "
            "names). UNet tracing needs a UNet with cross-attention, such as Stable Diffusion 1.x, 2.x or SDXL."
        )
    return sites


def _pooled_in(module: nn.Module) -> Iterator[Site]:
    """What the vector of the whole prompt becomes before it joins the time step, in SDXL."""
    for name in ("label_emb", "add_embedding"):
        if isinstance(found := getattr(module, name, None), nn.Module):
            yield Site("unet.pooled_in.entrance", "entrance", found)


def _sites_of(part: _Part) -> Iterator[Site]:
    if part.whole:
        yield Site(f"unet.{part.name}.block", "block", part.module, f"unet.{part.alias}.block" if part.alias else "")
        return
    for path, child in part.module.named_modules():
        inside = _inside(path)
        for kind, module in _kinds_of(child):
            alias = f"unet.{part.alias}{inside}.{kind}" if part.alias else ""
            yield Site(f"unet.{part.name}{inside}.{kind}", kind, module, alias)


def _kinds_of(module: Any) -> list[tuple[str, nn.Module]]:
    if hasattr(module, "attn1") and hasattr(module, "ff"):
        found = [("self_attn", module.attn1)]
        if getattr(module, "attn2", None) is not None:
            found += [("cross_attn", module.attn2), ("cross_context", module.attn2)]
        return [*found, ("feed_forward", module.ff)]
    return [("resnet", module)] if _is_resnet(module) else []


def _is_resnet(module: Any) -> bool:
    if hasattr(module, "in_layers") and hasattr(module, "out_layers"):
        return True
    return hasattr(module, "conv1") and hasattr(module, "conv2") and hasattr(module, "norm1")


def _is_transformer(module: nn.Module) -> bool:
    return any(hasattr(child, "attn1") and hasattr(child, "ff") for child in module.modules())


def _inside(path: str) -> str:
    """ "transformer_blocks.1" as ".t1"; the first transformer block is not told apart."""
    names = []
    for before, part in itertools.pairwise(["", *path.split(".")]):
        if before == "transformer_blocks":
            names += [] if part == "0" else [f"t{part}"]
        elif part and part != "transformer_blocks":
            names.append(part)
    return "".join(f".{name}" for name in names)


# --- diffusers -------------------------------------------------------------------------------------------------------


def _diffusers_parts(module: nn.Module) -> Iterator[_Part]:
    """Level by level: each residual block, the attention behind it, and what changes the size."""
    if isinstance(stem := getattr(module, "conv_in", None), nn.Module):
        yield _Part("in", "", stem, whole=True)
    for way in ("down", "mid", "up"):
        blocks = getattr(module, f"{way}_block" if way == "mid" else f"{way}_blocks", None)
        if isinstance(blocks, nn.Module):
            levels = [("mid", blocks)] if way == "mid" else [(f"{way}.{n}", b) for n, b in enumerate(blocks.children())]
            for name, level in levels:
                yield from _level_parts(name, level)


def _level_parts(name: str, level: nn.Module) -> Iterator[_Part]:
    lists = {key: list(value) for key, value in level.named_children() if isinstance(value, nn.ModuleList)}
    sizers = {key: lists.pop(key) for key in ("downsamplers", "upsamplers") if key in lists}
    order = sorted(lists, key=lambda key: (key != "resnets", key))
    ends: list[nn.Module] = []
    for number in range(max((len(modules) for modules in lists.values()), default=0)):
        row = [(key, lists[key][number]) for key in order if number < len(lists[key])]
        yield from (_Part(f"{name}.{key[0]}{number}", "", module) for key, module in row)
        ends.append(row[-1][1])
        last = number + 1 == len(lists[order[0]])
        if name != "mid" and not (last and "upsamplers" in sizers):
            yield _Part(f"{name}.b{number}", "", ends[-1], whole=True)
    for key, modules in sizers.items():
        yield from (_Part(f"{name}.{key[0]}{number}", "", module) for number, module in enumerate(modules))
        # On the way up the size changes within the last block, on the way down behind it.
        place = f"{name}.b{len(ends) - 1}" if key == "upsamplers" else f"{name}.d0"
        yield _Part(place, "", modules[-1], whole=True)
    if name == "mid" and ends:
        yield _Part("mid", "", ends[-1], whole=True)


# --- ComfyUI ---------------------------------------------------------------------------------------------------------


def _comfyui_parts(module: Any) -> Iterator[_Part]:
    """Block by block, on the way down, in the middle and on the way up."""
    yield from _way_parts("down", "input", module.input_blocks)
    middle = getattr(module, "middle_block", None)
    if isinstance(middle, nn.Module):
        yield from _block_parts("mid", "middle", middle, 0)
        yield _Part("mid", "middle", list(middle.children())[-1], whole=True)
    yield from _way_parts("up", "output", getattr(module, "output_blocks", ()))


def _way_parts(way: str, numbered: str, blocks: Iterable[nn.Module]) -> Iterator[_Part]:
    """The blocks of a way; a level ends with what changes the size."""
    level = resnets = 0
    for number, block in enumerate(blocks):
        alias = f"{numbered}.{number}"
        *_, last = block.children()
        held = sum(_is_resnet(child) and not _resizes(child) for child in block.children())
        if way == "down" and not held:
            name = f"down.{level}.d0" if number else "in"
            yield from (_Part(name, f"{alias}.{n}", child) for n, child in enumerate(block.children()))
            level, resnets = level + bool(number), 0
        else:
            yield from _block_parts(f"{way}.{level}", alias, block, resnets)
            name, resnets = f"{way}.{level}.b{resnets}", resnets + held
        yield _Part(name, alias, last, whole=True)
        if way == "up" and _resizes(last):
            level, resnets = level + 1, 0


def _resizes(module: Any) -> bool:
    """Whether a part changes the size: a resampler, or a residual block that does so on its way."""
    return bool(getattr(module, "updown", False)) or not (_is_resnet(module) or _is_transformer(module))


def _block_parts(name: str, alias: str, block: nn.Module, first: int) -> Iterator[_Part]:
    """Residual blocks and attentions counted from ``first``, and what changes the size."""
    resnets = attentions = first
    for number, child in enumerate(block.children()):
        if _is_transformer(child):
            yield _Part(f"{name}.a{attentions}", f"{alias}.{number}", child)
            attentions += 1
        elif not _resizes(child):
            yield _Part(f"{name}.r{resnets}", f"{alias}.{number}", child)
            resnets += 1
        else:
            yield _Part(f"{name}.u0", f"{alias}.{number}", child)


# --- names in files --------------------------------------------------------------------------------------------------


def site_names(names: Sequence[str]) -> tuple[str, ...]:
    """Today's names of sites, or of windows of them, that ComfyUI's numbers name; any other names as they are.

    Trace files of earlier versions hold such names: "unet.input.4.1.cross_attn" is "unet.down.1.a0.cross_attn",
    "unet.input.1.1..middle.1.self_attn" is "unet.down.0.a0..mid.a0.self_attn". All names are left as they are where one
    shows a UNet of another number of residual blocks a level.
    """
    renamed = tuple(_site_name(name) for name in names)
    return tuple(names) if any(re.search(r"\.d0\b(?!\.(resnet|block)$)", name) for name in renamed) else renamed


def _site_name(name: str) -> str:
    found = re.fullmatch(r"unet\.((?:input|middle|output)\..+|middle)\.(\w+)", name)
    if found is None:
        return name
    ends = [_counted_by_level(end, found.group(2)) for end in found.group(1).split("..")]
    return f"unet.{'..'.join(ends)}.{found.group(2)}" if all(ends) else name


def _counted_by_level(place: str, kind: str) -> str:
    """ "input.4.1.t1" as "down.1.a0.t1"; "" where it is no such place."""
    letter = {"resnet": "r", "block": "b"}.get(kind, "a")
    found = re.fullmatch(r"(input|output)\.(\d{1,3})((?:\.\d+)?)((?:\.[a-z]\w*)*)", place)
    if found is None:
        middle = re.fullmatch(r"middle(?:\.(\d))?((?:\.[a-z]\w*)*)", place)
        if middle is None or (middle.group(1) is None) != (kind == "block"):
            return ""
        return "mid" if kind == "block" else f"mid.{letter}{int(middle.group(1)) // 2}{middle.group(2)}"
    way, number, part, inside = found.group(1), int(found.group(2)), found.group(3), found.group(4)
    if bool(part) == (kind == "block"):
        return ""
    if way == "output":
        level, row = divmod(number, _RESNETS_OF_A_LEVEL + 1)
        return f"up.{level}.{letter}{row}{inside}"
    if number == 0:
        return "in" if kind == "block" else ""
    level, row = divmod(number - 1, _RESNETS_OF_A_LEVEL + 1)
    return f"down.{level}.{'d0' if row == _RESNETS_OF_A_LEVEL else f'{letter}{row}'}{inside}"
