"""Image models of every family whose doors are known: ComfyUI's own classes, a few blocks, small, random weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

TOKENS = 5


@dataclass(frozen=True)
class Case:
    """How to build and run a model of one family.

    Attributes:
        config: of its class in ``comfy.supported_models``.
        latent: (channels, ...) of a picture.
        width: of the text states.
        pooled: what the model calls its pooled vector, and the width of the conditioning's.
        arguments: other arguments of the model, by a seed of the text.
        shrink: makes the built model smaller.
    """

    supported: str
    config: Mapping[str, Any]
    latent: tuple[int, ...]
    width: int
    pooled: tuple[str, int] = ("", 0)
    arguments: Callable[[int], dict[str, Any]] = field(default=lambda seed: {})
    shrink: Callable[[Any], None] = field(default=lambda module: None)


def build(case: Case) -> Any:
    """ComfyUI's model around the image model, in fp32, all weights drawn."""
    import comfy.supported_models

    config = getattr(comfy.supported_models, case.supported)(dict(case.config))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    case.shrink(model.diffusion_model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # Buffers that a file holds too: ComfyUI leaves what was in memory in them (SD 3's positions).
        for name, tensor in model.diffusion_model.state_dict().items():
            norm = name.endswith(".scale") or (tensor.ndim == 1 and re.search(r"norm.*weight$", name.lower()))
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.05 + bool(norm))
    model.diffusion_model.float().eval()
    return model


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def present() -> dict[str, Case]:
    """The cases whose class the ComfyUI under test has."""
    import comfy.supported_models

    return {name: case for name, case in CASES.items() if hasattr(comfy.supported_models, case.supported)}


def _guided(seed: int) -> dict[str, Any]:
    return {"guidance": torch.tensor([3.5])}


def _counted(seed: int) -> dict[str, Any]:
    return {"num_tokens": TOKENS, "attention_mask": None}


def _t5_tokens(seed: int) -> dict[str, Any]:
    return {
        "t5xxl_ids": torch.tensor([[3, 5, 7, 1 + seed]]),
        "t5xxl_weights": torch.tensor([1.0, 0.5, 1, 1])[None, :, None],
    }


def _one_adapter_block(module: Any) -> None:
    module.llm_adapter.blocks = module.llm_adapter.blocks[:1]
    module.llm_adapter.embed.weight = torch.nn.Parameter(torch.empty(16, 1024))


_UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "out_channels": 4,
    "in_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "use_linear_in_transformer": True,
    "context_dim": 32,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}
_POOLED_UNET = {
    **_UNET,
    "num_classes": "sequential",
    "num_head_channels": 32,
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
    "adm_in_channels": 16 + 6 * 256,
}
_FLUX = {
    "image_model": "flux",
    "in_channels": 4,
    "out_channels": 4,
    "patch_size": 2,
    "hidden_size": 64,
    "context_in_dim": 32,
    "vec_in_dim": 16,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 1,
    "axes_dim": [8, 12, 12],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
_FLUX2 = {
    **_FLUX,
    "image_model": "flux2",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 1,
    "vec_in_dim": None,
    "axes_dim": [8] * 4,
    "theta": 2000,
    "qkv_bias": False,
    "ops_bias": False,
    "global_modulation": True,
    "mlp_silu_act": True,
    "txt_ids_dims": [3],
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
_CHROMA = {
    **{name: value for name, value in _FLUX.items() if name != "guidance_embed"},
    "image_model": "chroma",
    "in_channels": 16,
    "out_channels": 16,
    "in_dim": 64,
    "out_dim": 64,
    "hidden_dim": 48,
    "n_layers": 2,
}
_LUMINA = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 4,
    "dim": 256,
    "cap_feat_dim": 32,
    "n_layers": 1,
    "n_refiner_layers": 1,
    "qk_norm": True,
    "n_heads": 8,
    "n_kv_heads": 2,
    "axes_dims": [8, 12, 12],
    "axes_lens": [64, 64, 64],
    "rope_theta": 256.0,
    "ffn_dim_multiplier": 1.0,
}
_COSMOS = {
    "image_model": "cosmos_predict2",
    "max_img_h": 24,
    "max_img_w": 24,
    "max_frames": 8,
    "in_channels": 4,
    "out_channels": 4,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 64,
    "concat_padding_mask": True,
    "crossattn_emb_channels": 1024,
    "pos_emb_cls": "rope3d",
    "pos_emb_learnable": True,
    "pos_emb_interpolation": "crop",
    "min_fps": 1,
    "max_fps": 30,
    "use_adaln_lora": True,
    "adaln_lora_dim": 16,
    "num_blocks": 2,
    "num_heads": 2,
    "extra_per_block_abs_pos_emb": False,
    "rope_h_extrapolation_ratio": 4.0,
    "rope_w_extrapolation_ratio": 4.0,
    "rope_t_extrapolation_ratio": 1.0,
    "rope_enable_fps_modulation": False,
}
_IMAGE, _FRAMES = (4, 8, 8), (4, 1, 8, 8)

CASES = {
    "sdxl": Case("SDXL", _POOLED_UNET, _IMAGE, 32, ("y", 16)),
    "sdxl-refiner": Case(
        "SDXLRefiner",
        {
            **_POOLED_UNET,
            "num_res_blocks": [1] * 4,
            "channel_mult": [1, 2, 2, 2],
            "transformer_depth": [0, 1, 1, 0],
            "transformer_depth_output": [0, 0, 1, 1, 1, 1, 0, 0],
            "adm_in_channels": 32 + 5 * 256,
        },
        (4, 16, 16),
        32,
        ("y", 32),
    ),
    "sd1": Case("SD15", _UNET, _IMAGE, 32),
    "sd2": Case("SD20", {**_UNET, "model_channels": 64, "context_dim": 1024}, _IMAGE, 1024),
    "anima": Case(
        "Anima",
        {**_COSMOS, "image_model": "anima"},
        _FRAMES,
        1024,
        arguments=_t5_tokens,
        shrink=_one_adapter_block,
    ),
    "cosmos-predict2": Case("CosmosT2IPredict2", {**_COSMOS, "crossattn_emb_channels": 32}, _FRAMES, 32),
    "z-image": Case(
        "ZImage",
        {**_LUMINA, "n_kv_heads": 8, "z_image_modulation": True, "time_scale": 1000.0, "pad_tokens_multiple": 8},
        _IMAGE,
        32,
        arguments=_counted,
    ),
    "lumina2": Case("Lumina2", _LUMINA, _IMAGE, 32, arguments=_counted),
    "newbie": Case("Lumina2", {**_LUMINA, "clip_text_dim": 32}, _IMAGE, 32, ("clip_text_pooled", 32), _counted),
    "flux": Case("Flux", _FLUX, _IMAGE, 32, ("y", 16), _guided),
    "chroma": Case("Chroma", _CHROMA, _IMAGE, 32, arguments=_guided),
    "flux2": Case("Flux2", {**_FLUX2, "context_in_dim": 96}, (16, 4, 4), 96, arguments=_guided),
    "flux2-klein-4b": Case("Flux2", {**_FLUX2, "guidance_embed": False, "context_in_dim": 96}, (16, 4, 4), 96),
    "flux2-klein-9b": Case("Flux2", {**_FLUX2, "guidance_embed": False, "context_in_dim": 12288}, (16, 4, 4), 12288),
    "longcat": Case(
        "LongCatImage",
        {**_FLUX, "vec_in_dim": None, "context_in_dim": 3584, "guidance_embed": False, "txt_ids_dims": [1, 2]},
        _IMAGE,
        3584,
    ),
    "ovis": Case(
        "Flux",
        {
            **_FLUX,
            "vec_in_dim": None,
            "guidance_embed": False,
            "yak_mlp": True,
            "txt_norm": True,
            "txt_ids_dims": [1, 2],
        },
        _IMAGE,
        32,
    ),
    "krea2": Case(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 128,
            "channels": 4,
            "patch": 2,
            "layers": 2,
            "heads": 2,
            "kvheads": 1,
            "txtlayers": 3,
            "txtdim": 32,
            "txtheads": 2,
            "txtkvheads": 2,
        },
        _FRAMES,
        96,
    ),
    "qwen-image": Case(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 16,
            "out_channels": 4,
            "num_layers": 2,
            "attention_head_dim": 32,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (8, 12, 12),
        },
        _FRAMES,
        32,
    ),
    "sd3": Case(
        "SD3",
        {
            "in_channels": 4,
            "patch_size": 2,
            "out_channels": 4,
            "depth": 2,
            "input_size": None,
            "adm_in_channels": 16,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 32, "out_features": 128},
            },
            "num_patches": 256,
            "pos_embed_max_size": 16,
            "qk_norm": "rms",
            "pos_embed_scaling_factor": None,
            "x_block_self_attn_layers": [],
        },
        _IMAGE,
        32,
        ("y", 16),
    ),
    "wan": Case(
        "WAN21_T2V",
        {
            "image_model": "wan2.1",
            "dim": 64,
            "out_dim": 4,
            "num_heads": 2,
            "ffn_dim": 64,
            "num_layers": 2,
            "patch_size": (1, 2, 2),
            "freq_dim": 16,
            "window_size": (-1, -1),
            "qk_norm": True,
            "cross_attn_norm": True,
            "eps": 1e-6,
            "in_dim": 4,
            "model_type": "t2v",
            "text_dim": 32,
        },
        _FRAMES,
        32,
    ),
    "pixart": Case(
        "PixArtSigma",
        {
            "image_model": "pixart_sigma",
            "num_heads": 2,
            "patch_size": 2,
            "hidden_size": 64,
            "in_channels": 4,
            "depth": 2,
            "model_max_length": 12,
            "input_size": 16,
            "pe_interpolation": 2,
            "micro_condition": False,
            "caption_channels": 32,
        },
        (4, 40, 40),
        32,
    ),
    "hunyuan-image": Case(
        "HunyuanImage21",
        {
            "image_model": "hunyuan_video",
            "in_channels": 4,
            "patch_size": [1, 1],
            "out_channels": 4,
            "vec_in_dim": None,
            "axes_dim": [16, 16],
            "meanflow": False,
            "context_in_dim": 32,
            "hidden_size": 64,
            "mlp_ratio": 2.0,
            "num_heads": 2,
            "depth": 2,
            "depth_single_blocks": 1,
            "theta": 256,
            "qkv_bias": True,
            "byt5": False,
            "guidance_embed": False,
            "use_cond_type_embedding": False,
            "vision_in_dim": None,
            "meanflow_sum": False,
        },
        _IMAGE,
        32,
        arguments=lambda seed: {"attention_mask": None},
    ),
}
