"""The miniatures as ComfyUI objects: MODEL and CLIP through its own classes for their kinds, and a VAE."""

from __future__ import annotations

from typing import Any

import comfy.latent_formats
import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from ...demo_model import architecture as shape
from ...demo_model.architecture import ARCHITECTURES, SHAPES_SD1, SHAPES_XL, Architecture, FluxArchitecture, Miniature
from ...demo_model.autoencoder import Autoencoder
from ...demo_model.weights import load_part
from .shapes_dit import ShapesDiTConfig, clip_parts, transformer_weights

VARIANTS = {architecture.name: architecture for architecture in ARCHITECTURES.values()}


class MiniatureLatent(comfy.latent_formats.LatentFormat):
    """Sixteen channels of unit variance; previews come from the autoencoder's own linear decoder."""

    latent_channels = shape.LATENT_CHANNELS
    scale_factor = 1.0

    def __init__(self, architecture: Miniature) -> None:
        state = load_part("autoencoder", architecture.shared)
        self.latent_rgb_factors = state["linear_decoder.weight"].mean((2, 3)).tolist()
        self.latent_rgb_factors_bias = state["linear_decoder.bias"].tolist()


def _unet_config(architecture: Architecture) -> dict[str, Any]:
    """What ComfyUI calls the numbers of a UNet, which the architecture has in diffusers' words."""
    unet = architecture.unet
    widths, blocks = unet["block_out_channels"], unet["layers_per_block"]
    layers = unet.get("transformer_layers_per_block", [1] * len(widths))
    kinds = zip(unet["down_block_types"], layers, strict=True)
    depths = [depth if kind.startswith("CrossAttn") else 0 for kind, depth in kinds]
    pooled = unet.get("projection_class_embeddings_input_dim")
    return {
        "image_size": 32,
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [blocks] * len(widths),
        "transformer_depth": [depth for depth in depths for _ in range(blocks)],
        "transformer_depth_middle": layers[-1],
        "transformer_depth_output": [depth for depth in depths for _ in range(blocks + 1)],
        "context_dim": unet["cross_attention_dim"],
        "use_spatial_transformer": True,
        "use_linear_in_transformer": unet.get("use_linear_projection", False),
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
        "use_checkpoint": False,
        "adm_in_channels": pooled,
        **({} if pooled is None else {"num_classes": "sequential"}),
        "legacy": False,
    }


class ShapesConfig(comfy.supported_models.SD15):
    """SD 1.5's configuration with Shapes' widths."""

    unet_config = _unet_config(SHAPES_SD1)
    # diffusers says "head dim" where it means the number of heads.
    unet_extra_config = {  # noqa: RUF012 - ComfyUI's own form of declaration
        "num_heads": SHAPES_SD1.unet["attention_head_dim"],
        "num_head_channels": -1,
    }

    def inpaint_model(self) -> bool:
        # The base class takes more than four input channels for an inpainting model.
        return False


class ShapesXLConfig(comfy.supported_models.SDXL):
    """SDXL's configuration with Shapes XL's widths."""

    unet_config = _unet_config(SHAPES_XL)
    unet_extra_config = {  # noqa: RUF012
        "num_heads": -1,
        "num_head_channels": SHAPES_XL.unet["block_out_channels"][-1] // SHAPES_XL.unet["attention_head_dim"][-1],
    }

    def inpaint_model(self) -> bool:
        return False


def load_model(
    dtype: torch.dtype = torch.float32, architecture: Architecture | FluxArchitecture = SHAPES_SD1
) -> comfy.model_patcher.ModelPatcher:
    """A miniature's image model as a MODEL that keeps its weights in a type, and computes in it.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    kind, state = _kind_and_weights(architecture)
    config = kind(kind.unet_config)
    config.latent_format = MiniatureLatent(architecture)
    device = comfy.model_management.get_torch_device()
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, device=comfy.model_management.unet_offload_device())
    patcher = comfy.model_patcher.CoreModelPatcher(
        model, load_device=device, offload_device=comfy.model_management.unet_offload_device()
    )
    assign = getattr(patcher, "is_dynamic", lambda: False)()
    model.load_model_weights(state, "", assign=assign)
    return patcher


def _kind_and_weights(architecture: Architecture | FluxArchitecture) -> tuple[Any, dict[str, torch.Tensor]]:
    """ComfyUI's configuration of a miniature, and its image model's weights under ComfyUI's names."""
    if isinstance(architecture, FluxArchitecture):
        return ShapesDiTConfig, transformer_weights(architecture)
    kind = ShapesConfig if architecture.pooled is None else ShapesXLConfig
    names = comfy.utils.unet_to_diffusers(kind.unet_config)
    return kind, {names[key]: value for key, value in load_part("unet", architecture.folder).items()}


def load_clip(
    dtype: torch.dtype = torch.float32, architecture: Architecture | FluxArchitecture = SHAPES_SD1
) -> comfy.sd.CLIP:
    """A miniature's text encoders as a CLIP of its kind that keeps its weights in a type.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    parts = clip_parts(architecture) if isinstance(architecture, FluxArchitecture) else _clip_parts(architecture)
    target, state, configs, tokenizing = parts
    return comfy.sd.CLIP(
        target,
        state_dict=state,
        parameters=sum(value.numel() for value in state.values()),
        tokenizer_data=tokenizing,
        model_options={**configs, "dtype": dtype},
    )


def _clip_parts(architecture: Architecture) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """For CLIP text towers what :func:`.shapes_dit.clip_parts` gives for T5 and CLIP."""
    if architecture.pooled is None:
        target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
        names = {"text": "clip_l"}
    else:
        target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
        names = {"text_l": "clip_l", "text_g": "clip_g"}
    state = {}
    for key, value in load_part("clip", architecture.folder).items():
        tower, _, rest = key.partition(".")
        # ComfyUI projects the pooled vector of a tower with a square matrix only; SDXL's smaller tower has none either.
        if tower in names and (rest.startswith("text_model.") or tower == architecture.pooled):
            state[f"{names[tower]}.transformer.{rest}"] = value
    configs = {f"{name}_model_config": dict(architecture.texts[tower].config) for tower, name in names.items()}
    return target, state, configs, {}


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


def load_vae(architecture: Miniature = SHAPES_SD1) -> comfy.sd.VAE:
    """The autoencoder of a miniature's world as a VAE."""
    autoencoder = Autoencoder().eval().requires_grad_(False)
    autoencoder.load_state_dict(load_part("autoencoder", architecture.shared))
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
