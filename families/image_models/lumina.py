"""Z-Image, Lumina 2 and NewBie: one map, ``cap_embedder.1``, through which the text enters.

It reads the text states behind an RMS norm of the model (``cap_embedder.0``), so that states of the same direction are
the same to it: a prompt weight does nothing at this door. Z-Image puts learned pad tokens in behind the door.
``context_refiner`` reads text alone, but further on. NewBie also reads a pooled vector behind a norm of its own. Read
in ComfyUI's ``ldm/lumina/model.py`` and ``model_base.py`` and in diffusers' ``transformer_z_image.py`` and
``transformer_lumina2.py``; checked by perturbation of small models with random weights (NewBie too).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..door import Place, Refusal, Sign
from ..family import Family


def _normed(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    embedder = (
        module.time_caption_embed.caption_embedder if hasattr(module, "time_caption_embed") else (module.cap_embedder)
    )
    result: Tensor = embedder[0](states)
    return result


def _normed_pooled(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    result: Tensor = module.clip_text_pooled_proj[0](states)
    return result


_REFUSED = (
    Refusal(r"context_refiner\.\d+\..*", "door"),
    Refusal(r"t_embedder\..*|.*adaLN_modulation\..*|time_caption_embed\.timestep_embedder\..*", "time"),
    Refusal(r"(layers|noise_refiner)\.\d+\.norm1\.linear", "time"),
    Refusal(r"(layers|noise_refiner)\.\d+\..*|(all_)?x_embedder.*|(all_)?final_layer.*", "picture"),
)
_PAD, _POOLED = "cap_pad_token", "clip_text_pooled_proj.1.weight"
_TREE = ("cap_embedder.1.weight", "layers.0.attention.qkv.weight")

Z_IMAGE = Family(
    "z-image",
    "Z-Image (also Turbo)",
    "causal",
    ("qwen3_4b",),
    "one",
    "",
    False,
    "Z-Image Turbo's stock settings use a guidance of 1, with which a negative prompt does nothing; the base's use 4.",
    (Place("entrance", "cap_embedder.1", "cap_embedder.1"),),
    (
        Sign("comfyui", (*_TREE, _PAD), (_POOLED,)),
        Sign("diffusers", ("cap_embedder.1.weight", "layers.0.attention.to_q.weight", _PAD)),
    ),
    _REFUSED,
    fronts={"text": _normed},
    diffusers_prefix="transformer.",
    front_modules=("cap_embedder.0",),
)
LUMINA2 = Family(
    "lumina2",
    "Lumina 2 (also NetaYume)",
    "causal",
    ("gemma2_2b",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 4, with which a negative prompt works.",
    (Place("entrance", "cap_embedder.1", "time_caption_embed.caption_embedder.1"),),
    (
        Sign("comfyui", _TREE, (_PAD, _POOLED)),
        Sign(
            "diffusers",
            ("time_caption_embed.caption_embedder.1.weight", "layers.0.attn.to_q.weight"),
            (
                "ref_image_patch_embedder.weight",
                "double_stream_layers.0.img_instruct_attn.to_q.weight",
            ),
        ),
    ),
    _REFUSED,
    fronts={"text": _normed},
    diffusers_prefix="transformer.",
    front_modules=("cap_embedder.0",),
)
NEWBIE = Family(
    "newbie",
    "NewBie",
    "causal",
    ("gemma",),
    "one",
    "Jina CLIP's vector of the prompt, normed",
    True,
    "Stock settings use a guidance of 4 or more, with which a negative prompt works.",
    (Place("entrance", "cap_embedder.1"), Place("pooled", "clip_text_pooled_proj.1")),
    (Sign("comfyui", (*_TREE, _POOLED)),),
    (Refusal(r"time_text_embed\..*", "time"), *_REFUSED),
    fronts={"text": _normed, "pooled": _normed_pooled},
    front_modules=("cap_embedder.0", "clip_text_pooled_proj.0"),
)
