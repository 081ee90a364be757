"""Wan and PixArt: cross-attention whose keys and values read the text behind a small network of the model.

The network's first map (Wan's ``text_embedding.0``, PixArt's ``y_embedder.y_proj.fc1``) reads T5's states as they are
and is a door of its own, an entrance; keys and values behind it are the doors by default, since values alone leave the
attention where it was. Doors of the two kinds stand behind each other: an edit takes one kind. ComfyUI's PixArt keeps
keys and values in one matrix. Wan fills up to 512 positions with zeros, which its network turns into one state.
Read in ComfyUI's ``ldm/wan/model.py`` and ``ldm/pixart/`` and in diffusers' ``transformer_wan.py`` and
``pixart_transformer_2d.py``; checked by perturbation of small models with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..door import Place, Refusal, Sign
from ..family import Family


def _wan_embedded(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    network = module.text_embedding if hasattr(module, "text_embedding") else module.condition_embedder.text_embedder
    result: Tensor = network(states)
    return result


def _pixart_embedded(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    network = module.y_embedder.y_proj if hasattr(module, "y_embedder") else module.caption_projection
    result: Tensor = network(states)
    return result


WAN = Family(
    "wan",
    "Wan 2.1 and 2.2",
    "bidirectional",
    ("umt5xxl",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 3.5 or more, with which a negative prompt works; with a distilling LoRA 1. "
    "Wan 2.2 has two models, of high and of low noise: edit both.",
    (
        Place(
            "entrance", "text_embedding.0", "condition_embedder.text_embedder.linear_1", reads="conditioning", order=-1
        ),
        Place("key", "blocks.{}.cross_attn.k", "blocks.{}.attn2.to_k"),
        Place("value", "blocks.{}.cross_attn.v", "blocks.{}.attn2.to_v"),
    ),
    (
        Sign(
            "comfyui",
            ("text_embedding.0.weight", "blocks.0.cross_attn.k.weight", "head.modulation"),
            ("vace_patch_embedding.weight", "audio_proj.audio_proj_glob_1.layer.bias"),
        ),
        Sign(
            "diffusers",
            ("condition_embedder.text_embedder.linear_1.weight", "blocks.0.attn2.to_k.weight"),
            ("vace_patch_embedding.weight",),
        ),
    ),
    (
        Refusal(r"text_embedding\.2|condition_embedder\.text_embedder\.linear_2", "door"),
        Refusal(r"(time_embedding|time_projection)\.\d|condition_embedder\.time_.*", "time"),
        Refusal(r"blocks\.\d+\..*|head\.head|proj_out", "picture"),
    ),
    ("value",),
    {"text": _wan_embedded},
    "transformer.",
    front_modules=("text_embedding",),
)
PIXART = Family(
    "pixart",
    "PixArt alpha and Sigma",
    "bidirectional",
    ("t5xxl",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 4.5, with which a negative prompt works.",
    (
        Place("entrance", "y_embedder.y_proj.fc1", "caption_projection.linear_1", reads="conditioning", order=-1),
        Place("key", "blocks.{}.cross_attn.kv_linear", "transformer_blocks.{}.attn2.to_k", part=(0, 2)),
        Place("value", "blocks.{}.cross_attn.kv_linear", "transformer_blocks.{}.attn2.to_v", part=(1, 2)),
    ),
    (
        Sign("comfyui", ("y_embedder.y_proj.fc1.weight", "blocks.0.cross_attn.kv_linear.weight", "t_block.1.weight")),
        Sign(
            "diffusers",
            (
                "caption_projection.linear_1.weight",
                "transformer_blocks.0.attn2.to_k.weight",
                "adaln_single.emb.timestep_embedder.linear_1.weight",
                "pos_embed.proj.weight",
            ),
        ),
    ),
    (
        Refusal(r"y_embedder\.y_proj\.fc2|caption_projection\.linear_2", "door"),
        Refusal(r"t_embedder\..*|t_block\.1|adaln_single\..*", "time"),
        Refusal(r"(transformer_)?blocks\.\d+\..*|final_layer\.linear|proj_out", "picture"),
    ),
    ("value",),
    {"text": _pixart_embedded},
    front_modules=("y_embedder.y_proj",),
)
