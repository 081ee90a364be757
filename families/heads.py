"""The heads of attentions as sites of their own, where they are asked for: ``text.0.self_attn.h3``.

A head is what one of them gives before the map that mixes all: some columns of what that map reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from .sites import Head, Site

HEAD = "head"
"""The kind of these sites."""
_ATTENTIONS = ("self_attn", "cross_attn")
_COUNTS = ("heads", "num_heads", "n_heads")
_OUTPUTS = ("out_proj", "o_proj", "to_out", "output_proj", "o")


def with_heads(sites: Iterable[Site], names: str | None) -> tuple[Site, ...]:
    """The sites, and behind each attention its heads if patterns of names ask for heads.

    ``*attn.h*`` and ``text.0.self_attn.h[0-3]`` ask for them; ``text.*.h*`` does not, which hidden states fit.
    Attentions whose heads cannot be told apart by the shape of the module are left as they are.
    """
    sites = tuple(sites)
    if not re.search(r"attn\.h[\d*?\[]", names or ""):
        return sites
    return tuple(one for site in sites for one in (site, *_heads_of(site)))


def _heads_of(site: Site) -> Iterator[Site]:
    if site.kind not in _ATTENTIONS or site.span is not None or site.output:
        return
    count = next((int(getattr(site.module, name)) for name in _COUNTS if hasattr(site.module, name)), 0)
    mixed = next((getattr(site.module, name) for name in _OUTPUTS if hasattr(site.module, name)), None)
    # Dropout stands behind the map in UNets.
    inner = mixed[0] if isinstance(mixed, nn.Sequential | nn.ModuleList) else mixed
    weight = getattr(inner, "weight", None)
    width = int(weight.shape[1]) if isinstance(weight, torch.Tensor) else 0
    if not isinstance(inner, nn.Module) or not count or width % count:
        return
    size = width // count
    for number in range(count):
        head = Head(slice(number * size, (number + 1) * size))
        alias = f"{site.alias}.h{number}" if site.alias else ""
        yield Site(f"{site.name}.h{number}", HEAD, inner, alias, head=head)


def kind_of(name: str) -> str:
    """The kind of a site by its name, that of windows too."""
    last = name.rsplit(".", 1)[-1]
    return HEAD if re.fullmatch(r"h\d+", last) else last
