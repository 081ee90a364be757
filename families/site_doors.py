"""The doors beside the sites of an image model: what to edit where a trace has found something.

A site's name says where it is, not of which family the model is; patterns fit the names of that place in all families.
Keys are left out: they decide where a word acts, and an edit of them moves other words too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from .door import DoorError

_PLACES = (
    (r"unet\.(down|up)\.(\d+)\.a(\d+){t}\.cross_(?:attn|context)", "{0}_blocks.{1}.attentions.{2}.{t}.attn2.to_v"),
    (r"unet\.mid\.a(\d+){t}\.cross_(?:attn|context)", "mid_block.attentions.{0}.{t}.attn2.to_v"),
    (r"dit\.cross\.(\d+)\.cross_(?:attn|context)", "blocks.{0}.cross_attn.v*"),
)
_ENTRANCES = {
    "unet.pooled_in.entrance": ("label_emb.*",),
    "dit.pooled_in.entrance": ("vector_in.*", "y_embedder.mlp.*", "clip_text_pooled_proj.*"),
    "dit.text_in.entrance": (
        *("txt_in", "txt_in.*", "context_embedder", "cap_embedder.*", "txtmlp.*", "text_embedding.*"),
    ),
}
_REASONS = (
    (r"(?!text\.).*\.h\d+$", "it is one head of an attention; edit the whole one"),
    (r"text\.", "it is in a text encoder; connect layer to Diff-QuickFix Edit"),
    (r"dit\.single\.", "text and picture pass through the same maps there; edit the entrance of the text"),
    (r"dit\.double\.", "what its maps read depends on the time step and the picture; edit the entrance of the text"),
    (r"dit\.text_refiner\.", "it stands behind the entrance of the text; edit that"),
    (r".*\.(block|resnet)", "it holds what came before it too; trace cross_attn, and edit what that finds"),
)


def doors_of_sites(sites: Iterable[str]) -> str:
    """Patterns of the names of the doors at some sites, divided by commas, as :meth:`Family.select` takes them.

    A cross-attention's are the maps of its values, an entrance's those through which the text enters.

    Raises:
        DoorError: a site has no door; the message says why.
    """
    return ", ".join(dict.fromkeys(pattern for site in sites for pattern in _doors_of(site)))


def _doors_of(site: str) -> tuple[str, ...]:
    if site in _ENTRANCES:
        return _ENTRANCES[site]
    for written, door in _PLACES:
        # The first transformer block of an attention is not told apart in a site's name.
        if found := re.fullmatch(written.replace("{t}", r"(?:\.t(?P<t>\d+))?"), site):
            places = [value for number, value in enumerate(found.groups(), 1) if number != found.re.groupindex.get("t")]
            return (door.format(*places, t=f"transformer_blocks.{found.groupdict().get('t') or 0}"),)
    reason = next((why for start, why in _REASONS if re.match(start, site)), "what its maps read holds the picture")
    raise DoorError(f"{site} has no door: {reason}.")
