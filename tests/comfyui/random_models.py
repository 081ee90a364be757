"""Real-size models with random weights, as files that ComfyUI's stock loaders take. Built once, kept in the cache."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import Linear

RECIPE = 1


def cached(name: str, build) -> Path:
    """A file in the cache, built when missing and put in place in one move."""
    folder = Path(os.environ["DIFF_QUICKFIX_CACHE"]) / f"random-models-{RECIPE}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file(build(), part)
        part.rename(path)
    return path


def randomized(module: torch.nn.Module, prefix: str, seed: int) -> dict[str, torch.Tensor]:
    """The module's state in fp16: norms as they are, biases small, matrices of std 0.03."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in module.state_dict().items():
        if value.ndim == 1:
            fresh = torch.ones(value.shape) if "norm" in key and key.endswith("weight") else torch.zeros(value.shape)
            fresh += 0.01 * torch.randn(value.shape, generator=generator)
        else:
            fresh = 0.03 * torch.randn(value.shape, generator=generator)
        state[prefix + key] = fresh.half()
    return state


def clip_l(prefix: str = "", *, projected: bool = False) -> dict[str, torch.Tensor]:
    """CLIP-L's text tower; projected: with the projection that checkpoints of Stable Diffusion 1.x lack."""
    import comfy.ops
    from comfy.clip_model import CLIPTextModel_

    config = {
        "num_hidden_layers": 12,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
    }
    tower = CLIPTextModel_(config, torch.float32, "cpu", comfy.ops.disable_weight_init)
    state = randomized(tower, f"{prefix}text_model.", 1)
    if projected:
        state |= randomized(Linear(768, 768, bias=False), f"{prefix}text_projection.", 4)
    return state


def clip_vision_l() -> dict[str, torch.Tensor]:
    """CLIP-L's vision tower, under transformers' names."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        projection_dim=768,
    )
    return randomized(CLIPVisionModelWithProjection(config), "", 5)


def tiny_vae(channels: int = 16) -> dict[str, torch.Tensor]:
    """A tiny autoencoder, of a shape that Load VAE recognises, for latents of so many channels."""
    from comfy.taesd.taesd import TAESD
    from small_sdxl import fill

    vae = TAESD(latent_channels=channels)
    fill(vae, 6)
    return vae.state_dict()


def sd15() -> dict[str, torch.Tensor]:
    import comfy.ops
    from comfy.ldm.models.autoencoder import AutoencoderKL
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    unet = UNetModel(
        image_size=32,
        in_channels=4,
        out_channels=4,
        model_channels=320,
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=[1, 2, 4, 4],
        num_heads=8,
        use_spatial_transformer=True,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3,
        context_dim=768,
        legacy=False,
        use_linear_in_transformer=False,
        dtype=torch.float16,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )
    vae = AutoencoderKL(
        ddconfig={
            "double_z": True,
            "z_channels": 4,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        embed_dim=4,
    )
    return {
        **randomized(unet, "model.diffusion_model.", 2),
        **clip_l("cond_stage_model.transformer."),
        **randomized(vae, "first_stage_model.", 3),
    }
