"""Anima and Cosmos-Predict2: keys and values of every cross-attention read the text states.

Cosmos-Predict2 hands T5's states to them as they are. Anima's ``llm_adapter`` makes them first: its queries are T5's
token ids, its keys Qwen3's states, each of T5's positions reads all others, and zeros fill the rest up to 512, for
which keys and values are zero (no bias). A prompt weight scales its position's state. diffusers has one transformer for
both and keeps the adapter apart (``text_conditioner``), so that Anima's transformer alone looks like Cosmos-Predict2
there and reads finished states. Read in ComfyUI's ``ldm/anima/model.py``, ``ldm/cosmos/predict2.py`` and
``model_base.py`` of 0.16.3 and 0.30.0 and in diffusers' ``transformer_cosmos.py``; checked by perturbation of small
models with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..door import Place, Refusal, Sign
from ..family import Family


def _adapted(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    """What the adapter makes of Qwen3's states at T5's positions, as ComfyUI's ``Anima.extra_conds`` does."""
    ids, weights = extras.get("t5xxl_ids"), extras.get("t5xxl_weights")
    if ids is None:
        return states
    ids = torch.as_tensor(ids, device=states.device)
    ids = ids[None] if ids.ndim == 1 else ids
    if weights is not None:
        weights = torch.as_tensor(weights).to(states).reshape(ids.shape[0], -1, 1)
    result: Tensor = module.preprocess_text_embeds(states, ids, t5xxl_weights=weights)
    return result


_PLACES = (
    Place("key", "blocks.{}.cross_attn.k_proj", "transformer_blocks.{}.attn2.to_k"),
    Place("value", "blocks.{}.cross_attn.v_proj", "transformer_blocks.{}.attn2.to_v"),
)
_REFUSED = (
    Refusal(r"(blocks\.\d+\.(self_attn|cross_attn|mlp)|transformer_blocks\.\d+\.(attn1|attn2|ff))\..*", "picture"),
    Refusal(r"x_embedder\..*|patch_embed\..*|final_layer\.linear|proj_out", "picture"),
    Refusal(r".*adaln_modulation.*|t_embedder\..*|time_embed\..*|.*\.norm\d\.linear_\d|norm_out\..*", "time"),
)
_KEY = "blocks.0.cross_attn.k_proj.weight"
_GUIDED = "Stock settings use a guidance of 4 or more, with which a negative prompt works."

ANIMA = Family(
    "anima",
    "Anima",
    "bidirectional",
    ("qwen3_06b",),
    "one",
    "",
    True,
    _GUIDED,
    _PLACES,
    (Sign("comfyui", (_KEY, "blocks.0.mlp.layer1.weight", "llm_adapter.blocks.0.cross_attn.q_proj.weight")),),
    (Refusal(r"llm_adapter\..*", "before"), *_REFUSED),
    ("value",),
    {"text": _adapted},
    "transformer.",
    positions=("t5xxl",),
    front_modules=("llm_adapter",),
)
COSMOS = Family(
    "cosmos-predict2",
    "Cosmos-Predict2 (in diffusers also Anima's transformer)",
    "bidirectional",
    ("t5xxl",),
    "one",
    "",
    True,
    _GUIDED,
    _PLACES,
    (
        Sign("comfyui", (_KEY, "blocks.0.mlp.layer1.weight"), ("llm_adapter.blocks.0.cross_attn.q_proj.weight",)),
        Sign(
            "diffusers",
            (
                "transformer_blocks.0.attn2.to_k.weight",
                "patch_embed.proj.weight",
                "time_embed.t_embedder.linear_1.weight",
            ),
            ("crossattn_proj.0.weight", "transformer_blocks.0.attn2.k_img.weight"),
        ),
    ),
    _REFUSED,
    ("value",),
    diffusers_prefix="transformer.",
)
