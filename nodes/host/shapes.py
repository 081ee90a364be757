"""Shapes as ComfyUI objects: MODEL through its ``UNetModel``, CLIP through its ``SDClipModel``, and a VAE."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from ...demo_model import architecture as shape
from ...demo_model.autoencoder import Autoencoder
from ...demo_model.weights import load_part


class ShapesLatent(comfy.latent_formats.LatentFormat):
    """Sixteen channels of unit variance; previews come from the autoencoder's own linear decoder."""

    latent_channels = shape.LATENT_CHANNELS
    scale_factor = 1.0

    def __init__(self) -> None:
        state = load_part("autoencoder")
        self.latent_rgb_factors = state["linear_decoder.weight"].mean((2, 3)).tolist()
        self.latent_rgb_factors_bias = state["linear_decoder.bias"].tolist()


class ShapesConfig(comfy.supported_models.SD15):
    """SD-1.5's configuration with Shapes' widths."""

    unet_config = {  # noqa: RUF012 - ComfyUI's own form of declaration
        "image_size": 32,
        "in_channels": shape.UNET_CONFIG["in_channels"],
        "out_channels": shape.UNET_CONFIG["out_channels"],
        "model_channels": 64,
        "channel_mult": [width // 64 for width in shape.UNET_CONFIG["block_out_channels"]],
        "num_res_blocks": [shape.UNET_CONFIG["layers_per_block"]] * 4,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "context_dim": shape.TEXT_WIDTH,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": False,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_checkpoint": False,
        "adm_in_channels": None,
        "legacy": False,
    }
    unet_extra_config = {  # noqa: RUF012
        "num_heads": shape.UNET_CONFIG["attention_head_dim"],
        "num_head_channels": -1,
    }
    latent_format = ShapesLatent

    def inpaint_model(self) -> bool:
        # The base class takes more than four input channels for an inpainting model.
        return False


def load_model(dtype: torch.dtype = torch.float32) -> comfy.model_patcher.ModelPatcher:
    """Shapes' UNet as a MODEL that keeps its weights in a type, and computes in it."""
    config = ShapesConfig(ShapesConfig.unet_config)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    state = {names[key]: value for key, value in load_part("unet").items()}
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(dtype, None)
    model = comfy.model_base.BaseModel(config, device=comfy.model_management.unet_offload_device())
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
    assign = getattr(patcher, "is_dynamic", lambda: False)()
    model.load_model_weights(state, "", assign=assign)
    return patcher


def load_clip(dtype: torch.dtype = torch.float32) -> comfy.sd.CLIP:
    """Shapes' text tower as a CLIP of Stable Diffusion 1.x that keeps its weights in a type."""
    state = {
        f"clip_l.transformer.{key.removeprefix('text.')}": value
        for key, value in load_part("clip").items()
        if key.startswith("text.text_model.")
    }
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    return comfy.sd.CLIP(
        target,
        state_dict=state,
        parameters=sum(value.numel() for value in state.values()),
        model_options={"clip_l_model_config": dict(shape.TEXT_CONFIG), "dtype": dtype},
    )


class _FirstStage(torch.nn.Module):
    """The autoencoder under the method signatures that ComfyUI's VAE calls; it computes where its weights are."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def encode(self, pictures: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.autoencoder.encode(pictures.to(self._device())).to(pictures.device)

    def decode(self, latents: torch.Tensor, **_: Any) -> torch.Tensor:
        return self.autoencoder.decode(latents.to(self._device())).to(latents.device)

    def _device(self) -> torch.device:
        return next(self.autoencoder.parameters()).device


def load_vae() -> comfy.sd.VAE:
    """Shapes' autoencoder as a VAE."""
    autoencoder = Autoencoder().eval().requires_grad_(False)
    autoencoder.load_state_dict(load_part("autoencoder"))
    # VAE's constructor chooses among the architectures that it knows. It is given the smallest of them for everything
    # that does not depend on the architecture (devices, tiling, memory), and then the network that is meant.
    stand_in = {
        "z_channels": 16,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 32,
        "ch_mult": [1],
        "num_res_blocks": 1,
        "resolution": 128,
        "attn_resolutions": [],
        "dropout": 0.0,
        "double_z": True,
    }
    params = {"ddconfig": stand_in, "embed_dim": 16}
    weights = comfy.ldm.models.autoencoder.AutoencoderKL(**params).state_dict()
    vae = comfy.sd.VAE(sd=weights, config={"params": params}, dtype=torch.float32)
    vae.first_stage_model = _FirstStage(autoencoder)
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        vae.first_stage_model, load_device=vae.device, offload_device=comfy.model_management.vae_offload_device()
    )
    vae.disable_offload = True  # all of it is loaded, or nothing
    vae.latent_channels = shape.LATENT_CHANNELS
    vae.size = comfy.model_management.module_size(vae.first_stage_model)
    return vae
