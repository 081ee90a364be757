"""Qwen-Image and Stable Diffusion 3: one map through which the text enters a joint attention.

Qwen-Image's ``txt_in`` reads the text states behind an RMS norm (``txt_norm``), so that a prompt weight does nothing.
Stable Diffusion 3's ``context_embedder`` reads CLIP-L and CLIP-G side by side, filled with zeros to T5's width, and T5
behind them; a model with a ``context_processor``, which mixes them first, is none of this family. Its
``y_embedder.mlp.0`` reads both CLIPs' pooled vectors. Read in ComfyUI's ``ldm/qwen_image/model.py``,
``ldm/modules/diffusionmodules/mmdit.py`` and ``model_base.py`` and in diffusers' ``transformer_qwenimage.py`` and
``transformer_sd3.py``; checked by perturbation of small models with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..door import Place, Refusal, Sign, height_of
from ..family import Family


def _normed(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    result: Tensor = module.txt_norm(states)
    return result


def _is_qwen(shapes: Mapping[str, Any]) -> bool:
    """MageFlow has the same names, a norm of 2560 and an output of 128."""
    return (height_of(shapes, "txt_norm.weight"), height_of(shapes, "proj_out.weight")) != (2560, 128)


_QWEN = (
    "txt_in.weight",
    "txt_norm.weight",
    "transformer_blocks.0.attn.add_k_proj.weight",
    "transformer_blocks.0.img_mod.1.weight",
)
# Both trees have the same names.
QWEN_IMAGE = Family(
    "qwen-image",
    "Qwen-Image (also Edit, Layered)",
    "causal",
    ("qwen25_7b",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 4, with which a negative prompt works; with a distilling LoRA they use 1.",
    (Place("entrance", "txt_in", "txt_in"),),
    (Sign("comfyui", _QWEN, test=_is_qwen),),
    (
        Refusal(r"transformer_blocks\.0\.attn\.add_[qkv]_proj", "time"),
        Refusal(r"transformer_blocks\.\d+\.(img|txt)_mod\.1|time_text_embed\..*|norm_out\.linear", "time"),
        Refusal(r"transformer_blocks\.\d+\..*|img_in|proj_out", "picture"),
    ),
    fronts={"text": _normed},
    diffusers_prefix="transformer.",
    front_modules=("txt_norm",),
)
SD3 = Family(
    "sd3",
    "Stable Diffusion 3 and 3.5",
    "bidirectional",
    ("l", "g", "t5xxl"),
    "behind",
    "end-of-text states of both CLIPs side by side, CLIP-G's projected",
    True,
    "Stock settings use a guidance of 4 or more, with which a negative prompt works.",
    (
        Place("entrance", "context_embedder", "context_embedder"),
        Place("pooled", "y_embedder.mlp.0", "time_text_embed.text_embedder.linear_1"),
    ),
    (
        Sign(
            "comfyui",
            ("context_embedder.weight", "joint_blocks.0.context_block.attn.qkv.weight"),
            ("context_processor.layers.0.attn.qkv.weight",),
        ),
        Sign(
            "diffusers",
            (
                "context_embedder.weight",
                "transformer_blocks.0.attn.add_k_proj.weight",
                "time_text_embed.text_embedder.linear_1.weight",
                "pos_embed.proj.weight",
            ),
        ),
    ),
    (
        Refusal(r"y_embedder\.mlp\.2|time_text_embed\.text_embedder\.linear_2", "door"),
        Refusal(r"joint_blocks\.0\.context_block\.attn\.qkv|transformer_blocks\.0\.attn\.add_[qkv]_proj", "time"),
        Refusal(
            r"t_embedder\..*|.*adaLN_modulation\.1|time_text_embed\.timestep.*|.*\.norm1(_context)?\.linear", "time"
        ),
        Refusal(r"norm_out\.linear", "time"),
        Refusal(r"(joint|transformer)_blocks\.\d+\..*|final_layer\.linear|proj_out", "picture"),
    ),
    diffusers_prefix="transformer.",
    positions=("t5xxl",),
)
