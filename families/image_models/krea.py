"""Krea 2: one map, ``txtmlp.1``, behind a small text network of the model.

``txtfusion`` mixes twelve layers of Qwen3-VL for each token, then lets every token read every other; an RMS norm
(``txtmlp.0``) stands before the door. The states at the door are therefore those of a bidirectional reader, whatever
the text encoder is. Blocks let picture and text through the same matrices. Read in ComfyUI's ``ldm/krea2/model.py`` and
in diffusers' ``transformer_krea2.py``; checked by perturbation of small models with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..door import DoorError, Place, Refusal, Sign
from ..family import Family


def _fused(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    """The normed states behind the text network, from the flattened layers, (n, tokens, layers * width)."""
    projector = module.txtfusion.projector if hasattr(module, "txtfusion") else module.text_fusion.projector
    layers = projector.weight.shape[1]
    if states.shape[-1] % layers:
        raise DoorError(
            f"Found text states {states.shape[-1]} wide; expected {layers} layers of one width beside each other, as "
            'CLIPLoader of the type "krea2" gives them.'
        )
    states = states.unflatten(-1, (layers, -1))
    if hasattr(module, "txtfusion"):
        result: Tensor = module.txtmlp[0](module.txtfusion(states))
    else:
        result = module.txt_in.norm(module.text_fusion(states))
    return result


KREA2 = Family(
    "krea2",
    "Krea 2",
    "bidirectional",
    ("qwen3vl_4b",),
    "one",
    "",
    False,
    "Krea 2 Turbo's stock settings use a guidance of 1, with which a negative prompt does nothing.",
    (Place("entrance", "txtmlp.1", "txt_in.linear_1"),),
    (
        Sign("comfyui", ("txtmlp.1.weight", "txtfusion.projector.weight")),
        Sign("diffusers", ("txt_in.linear_1.weight", "text_fusion.projector.weight")),
    ),
    (
        Refusal(r"(txtmlp\.3|txt_in\.linear_2)", "door"),
        Refusal(r"(txtfusion|text_fusion)\..*", "before"),
        Refusal(r"(tmlp|tproj|time_embed|time_mod_proj)\b.*", "time"),
        Refusal(r"(blocks|transformer_blocks)\.\d+\..*|first|img_in|last\.linear|final_layer\.linear", "picture"),
    ),
    fronts={"text": _fused},
    front_modules=("txtfusion", "txtmlp.0"),
    diffusers_prefix="transformer.",
)
