"""Diffusers pipelines in miniature with random weights, of diffusers' and transformers' own classes."""

from __future__ import annotations

import torch
from diff_quickfix.text.vocabulary import find_vocabulary
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

L_WIDTH, G_WIDTH, POOLED = 24, 40, 32
_UNET = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (2, 4),
    "norm_num_groups": 8,
    "use_linear_projection": True,
}


def stirred(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Biases and norms that are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def text_encoder(width: int, seed: int, *, layers: int = 3, activation: str = "quick_gelu", vector: int | None = None):
    """A CLIP text model, with a projection where ``vector`` is given."""
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        projection_dim=vector or 512,
    )
    torch.manual_seed(seed)
    return stirred((CLIPTextModelWithProjection if vector else CLIPTextModel)(config), seed)


def tokenizer(pad: str = "<|endoftext|>"):
    """CLIP's tokenizer with a padding of its own."""
    folder = find_vocabulary()
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), pad_token=pad, model_max_length=77)


def unet(seed: int, **config):
    """A UNet of diffusers."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return stirred(UNet2DConditionModel(**{**_UNET, **config}), seed)


def vae():
    """The smallest autoencoder: a pipeline wants one."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4).eval()


def sdxl():
    """A StableDiffusionXLPipeline."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text_encoder(L_WIDTH, 1),
        text_encoder_2=text_encoder(G_WIDTH, 2, activation="gelu", vector=POOLED),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer("!"),
        unet=unet(
            3,
            cross_attention_dim=L_WIDTH + G_WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=POOLED + 6 * 256,
        ),
        scheduler=EulerDiscreteScheduler(),
    )


def sd1(width: int = 32, pad: str = "<|endoftext|>"):
    """A StableDiffusionPipeline."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(width, 4, layers=2),
        tokenizer=tokenizer(pad),
        unet=unet(
            5,
            cross_attention_dim=width,
            use_linear_projection=False,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
