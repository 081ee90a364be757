"""Sites: the places of a model whose output can be restored, found by the shape of the module tree.

Names are stable and printable, and one place has one name in whatever module tree it was found: ``text.0.self_attn`` in
a text encoder, ``text.l.0.self_attn`` in one of several, ``unet.down.1.a0.cross_attn`` in a UNet,
``dit.double.3.attn`` in a transformer.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from torch import nn


class SiteError(ValueError):
    """A model without sites, or a selection of none."""


@dataclass(frozen=True)
class Span:
    """The text's or the picture's positions in a sequence that holds the text's first and then the picture's.

    Attributes:
        gauge: a module that runs before the sequence is made, whose output (n, tokens, width) is as long as the text.
        output: which of its outputs that is, where it gives several.
        text: whether the text's positions are meant.
    """

    gauge: nn.Module
    output: int
    text: bool


@dataclass(frozen=True)
class Head:
    """One head of an attention: some columns of what the map reads that mixes all heads, which is the site's module."""

    columns: slice


@dataclass(frozen=True)
class Site:
    """One place of a model.

    Attributes:
        name: "text.0.self_attn", "unet.mid.a0.cross_attn", "dit.single.7.text_block", ...
        kind: one of :data:`~.text_stacks.SITE_KINDS` or :data:`~.transformer.IMAGE_KINDS`, or
            :data:`~.heads.HEAD`. ``hidden`` is a text layer's residual stream, ``block`` a block's output;
            ``cross_context`` is the text that a cross-attention reads, not what it returns.
        module: the module that computes it. For ``cross_context`` it is the cross-attention, and its input is meant.
        alias: another name that patterns may fit; "" for none.
        output: which entry of what the module returns is meant, where it returns several.
        slot: which entry of the output's second axis is meant; None: all of it.
        span: which positions of the output are meant; None: all of them.
        head: for a head of an attention, what is meant of the module's input, and not of its output.
    """

    name: str
    kind: str
    module: nn.Module = field(repr=False, compare=False)
    alias: str = field(default="", repr=False, compare=False)
    output: int = field(default=0, repr=False, compare=False)
    slot: int | None = field(default=None, repr=False, compare=False)
    span: Span | None = field(default=None, repr=False, compare=False)
    head: Head | None = field(default=None, repr=False, compare=False)

    @property
    def component(self) -> str:
        """ "text", "unet" or "dit"."""
        return self.name.split(".", 1)[0]

    @property
    def encoder(self) -> str:
        """The name of the text encoder among several, "l" of ``text.l.0.mlp``; "" of ``text.0.mlp`` and in a UNet."""
        component, name = self.name.split(".")[:2]
        return name if component == "text" and not name.isdigit() else ""


def select(sites: Iterable[Site], *, kinds: Sequence[str] | None = None, names: str | None = None) -> tuple[Site, ...]:
    """The sites of some kinds whose names fit one of several patterns.

    Args:
        names: shell patterns divided by commas or spaces, such as ``"unet.down.*, unet.mid.*"``; a range of numbers
            is written ``text.[0-3].*``. They may be of a site's name or of its alias.

    Raises:
        SiteError: nothing fits; the message lists what there is.
    """
    sites = tuple(sites)
    patterns = (names or "*").replace(",", " ").split()
    chosen = tuple(
        site
        for site in sites
        if (kinds is None or site.kind in kinds)
        and any(fnmatch.fnmatchcase(name, p) for name in (site.name, site.alias) for p in patterns)
    )
    if not chosen:
        there = ", ".join(site.name for site in sites[:8]) + (", ..." if len(sites) > 8 else "")
        wanted = "all kinds" if kinds is None else f"kind {', '.join(kinds)}"
        raise SiteError(
            f"No site fits {wanted} and names {names or '*'}; this model has {there} (kinds: "
            f"{', '.join(dict.fromkeys(site.kind for site in sites))})."
        )
    return chosen


def windows(sites: Sequence[Site], size: int) -> tuple[tuple[Site, ...], ...]:
    """Groups of ``size`` neighbouring sites of one kind, slid one by one; groups are restored together.

    Sites of two text encoders are no neighbours. A kind with fewer sites than ``size`` gives one group of all of them.

    Raises:
        SiteError: ``size`` is below one.
    """
    if size < 1:
        raise SiteError(f"A window holds at least one site; got {size}.")
    groups: list[tuple[Site, ...]] = []
    for kind in dict.fromkeys((site.encoder, site.kind) for site in sites):
        line = [site for site in sites if (site.encoder, site.kind) == kind]
        width = min(size, len(line))
        groups += [tuple(line[start : start + width]) for start in range(len(line) - width + 1)]
    return tuple(groups)


def group_name(group: Sequence[Site]) -> str:
    """The name of a window: its site's own, or "first..last" with the shared kind once."""
    if len(group) == 1:
        return group[0].name
    first, last = (site.name.removesuffix(f".{site.kind}") for site in (group[0], group[-1]))
    return f"{first}..{last.split('.', 1)[1]}.{group[0].kind}"
