"""Small models of diffusers' own classes, one a family that it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """A class of diffusers, how to build a small model of it, and what loads its LoRAs ("" where nothing does)."""

    model: str
    config: Mapping[str, Any]
    loader: str = ""


def build(case: Case, device: str = "cpu") -> torch.nn.Module:
    import diffusers

    torch.manual_seed(0)
    with torch.device(device):
        return getattr(diffusers, case.model)(**case.config)


def unet(**config: Any) -> dict[str, Any]:
    """A UNet of two levels, the outer without attention where it also reads a pooled vector."""
    pooled = "addition_embed_type" in config
    return {
        "sample_size": 8,
        "layers_per_block": 2,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D" if pooled else "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D" if pooled else "CrossAttnUpBlock2D"),
        "attention_head_dim": 8,
        "cross_attention_dim": 32,
        **config,
    }


_JOINT = {
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 32,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "axes_dims_rope": (8, 12, 12),
}
_FOUR_LEVELS = {
    "block_out_channels": (32,) * 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}
_POOLED = {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
_FLUX2 = {**_JOINT, "in_channels": 16, "axes_dims_rope": (8,) * 4}

CASES = {
    "sdxl": Case(
        "UNet2DConditionModel",
        unet(**_POOLED, projection_class_embeddings_input_dim=16 + 6 * 256),
        "StableDiffusionXLLoraLoaderMixin",
    ),
    "sdxl-refiner": Case(
        "UNet2DConditionModel",
        unet(**_POOLED, **_FOUR_LEVELS, projection_class_embeddings_input_dim=32 + 5 * 256),
        "StableDiffusionXLLoraLoaderMixin",
    ),
    "sd1": Case("UNet2DConditionModel", unet(), "StableDiffusionLoraLoaderMixin"),
    "sd2": Case("UNet2DConditionModel", unet(cross_attention_dim=1024), "StableDiffusionLoraLoaderMixin"),
    "cosmos-predict2": Case(
        "CosmosTransformer3DModel",
        {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 32, "text_embed_dim": 32, "adaln_lora_dim": 8}
        | {"extra_pos_embed_type": None, "max_size": (4, 16, 16), "encoder_hidden_states_channels": 32},
        "AnimaLoraLoaderMixin",
    ),
    "z-image": Case(
        "ZImageTransformer2DModel",
        {"dim": 64, "n_layers": 1, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32}
        | {"axes_dims": [8, 12, 12], "axes_lens": [32, 32, 32]},
        "ZImageLoraLoaderMixin",
    ),
    "lumina2": Case(
        "Lumina2Transformer2DModel",
        {"hidden_size": 64, "num_layers": 1, "num_refiner_layers": 1, "num_attention_heads": 2, "num_kv_heads": 1}
        | {"axes_dim_rope": (8, 12, 12), "axes_lens": (32, 32, 32), "cap_feat_dim": 32},
        "Lumina2LoraLoaderMixin",
    ),
    "flux": Case("FluxTransformer2DModel", {**_JOINT, "pooled_projection_dim": 16}, "FluxLoraLoaderMixin"),
    "chroma": Case(
        "ChromaTransformer2DModel",
        {**_JOINT, "approximator_num_channels": 16, "approximator_hidden_dim": 16, "approximator_layers": 1},
        "FluxLoraLoaderMixin",
    ),
    "flux2": Case("Flux2Transformer2DModel", _FLUX2, "Flux2LoraLoaderMixin"),
    "flux2-klein-4b": Case("Flux2Transformer2DModel", {**_FLUX2, "guidance_embeds": False}, "Flux2LoraLoaderMixin"),
    "flux2-klein-9b": Case(
        "Flux2Transformer2DModel",
        {**_FLUX2, "guidance_embeds": False, "joint_attention_dim": 12288},
        "Flux2LoraLoaderMixin",
    ),
    "longcat": Case("LongCatImageTransformer2DModel", {**_JOINT, "joint_attention_dim": 3584}),
    "ovis": Case("OvisImageTransformer2DModel", _JOINT),
    "krea2": Case(
        "Krea2Transformer2DModel",
        {"in_channels": 16, "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2}
        | {"num_key_value_heads": 1, "intermediate_size": 64, "text_hidden_dim": 32, "num_text_layers": 3}
        | {"text_num_attention_heads": 2, "text_num_key_value_heads": 2, "text_intermediate_size": 64}
        | {"axes_dims_rope": (8, 12, 12)},
        "Krea2LoraLoaderMixin",
    ),
    "qwen-image": Case(
        "QwenImageTransformer2DModel",
        {name: value for name, value in _JOINT.items() if name != "num_single_layers"},
        "QwenImageLoraLoaderMixin",
    ),
    "sd3": Case(
        "SD3Transformer2DModel",
        {"sample_size": 8, "num_layers": 1, "attention_head_dim": 32, "num_attention_heads": 2}
        | {"joint_attention_dim": 32, "caption_projection_dim": 64, "pooled_projection_dim": 16}
        | {"pos_embed_max_size": 8},
        "SD3LoraLoaderMixin",
    ),
    "wan": Case(
        "WanTransformer3DModel",
        {"num_attention_heads": 2, "attention_head_dim": 12, "text_dim": 32, "ffn_dim": 32, "num_layers": 2},
        "WanLoraLoaderMixin",
    ),
    "pixart": Case(
        "PixArtTransformer2DModel",
        {"num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1, "cross_attention_dim": 64}
        | {"sample_size": 8, "caption_channels": 32, "use_additional_conditions": False},
    ),
    "hunyuan-image": Case(
        "HunyuanImageTransformer2DModel",
        {"in_channels": 4, "num_attention_heads": 2, "attention_head_dim": 32, "num_layers": 1}
        | {"num_single_layers": 1, "num_refiner_layers": 1, "text_embed_dim": 32, "rope_axes_dim": (16, 16)},
    ),
}
