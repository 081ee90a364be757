"""SDXL in miniature with random weights, through ComfyUI's own classes: its topology and its two text encoders."""

from __future__ import annotations

import torch

L_WIDTH, G_WIDTH, POOLED = 48, 80, 80
_UNET = {
    "use_checkpoint": False,
    "image_size": 32,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
    "in_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "channel_mult": [1, 2, 2],
    "transformer_depth_middle": 2,
    "use_linear_in_transformer": True,
    "context_dim": L_WIDTH + G_WIDTH,
    "num_head_channels": 32,
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}


def fill(module: torch.nn.Module, seed: int) -> None:
    """Random weights, in place: norms near one, biases small."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim < 2:
                parameter.copy_(0.05 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
            else:
                parameter.copy_(noise / max(1, parameter[0].numel()) ** 0.5 if "embedding" not in name else noise)


def small_model(dtype: torch.dtype = torch.float32):
    """A MODEL."""
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SDXL(dict(_UNET))
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device="cpu")
    fill(model.diffusion_model, 1)
    model.diffusion_model.to(dtype).eval()
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def small_clip():
    """A CLIP."""
    import comfy.sdxl_clip

    return clip_of(comfy.sdxl_clip.SDXLClipModel, comfy.sdxl_clip.SDXLTokenizer)


def small_sd3_clip(**towers):
    """The CLIP of Stable Diffusion 3 without T5.

    Args:
        towers: clip_l or clip_g = False leaves that one out.
    """
    import comfy.text_encoders.sd3_clip as sd3

    return clip_of(sd3.sd3_clip(t5=False, **towers), sd3.SD3Tokenizer)


def clip_of(model, own):
    """A CLIP of a class of text encoders, with towers of the same small sizes."""
    import comfy.sd

    class Target:
        clip = model
        tokenizer = own
        params: dict = {}  # noqa: RUF012

    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4}
    options = {
        "clip_l_model_config": {**sizes, "hidden_size": L_WIDTH, "intermediate_size": 2 * L_WIDTH},
        "clip_g_model_config": {
            **sizes,
            "hidden_size": G_WIDTH,
            "intermediate_size": 2 * G_WIDTH,
            "projection_dim": POOLED,
        },
    }
    clip = comfy.sd.CLIP(Target, embedding_directory=None, model_options=options)
    for seed, name in enumerate(("clip_l", "clip_g"), 2):
        tower = getattr(clip.cond_stage_model, name)
        if tower is not None:
            fill(tower, seed)
    return clip
