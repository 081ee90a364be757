"""What of Shapes DiT is ComfyUI's: configurations of Flux.1 and of its text encoders, and the weights' names there."""

from __future__ import annotations

from typing import Any

import comfy.model_detection
import comfy.supported_models
import comfy.supported_models_base
import comfy.text_encoders.flux

from ...demo_model.architecture import LATENT_CHANNELS, SHAPES_DIT, FluxArchitecture
from ...demo_model.weights import load_part


def _config(architecture: FluxArchitecture) -> dict[str, Any]:
    """What ComfyUI calls the numbers of the transformer, which the architecture has in diffusers' words."""
    transformer = architecture.transformer
    return {
        "image_model": "flux",
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "patch_size": 2,
        "hidden_size": transformer["attention_head_dim"] * transformer["num_attention_heads"],
        "context_in_dim": transformer["joint_attention_dim"],
        "vec_in_dim": transformer["pooled_projection_dim"],
        "mlp_ratio": 4.0,
        "num_heads": transformer["num_attention_heads"],
        "depth": transformer["num_layers"],
        "depth_single_blocks": transformer["num_single_layers"],
        "axes_dim": list(transformer["axes_dims_rope"]),
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": transformer["guidance_embeds"],
        "txt_ids_dims": [],
    }


class ShapesDiTConfig(comfy.supported_models.Flux):
    """Flux.1's configuration with Shapes DiT's widths."""

    unet_config = _config(SHAPES_DIT)
    sampling_settings = {"shift": SHAPES_DIT.shift}  # noqa: RUF012 - ComfyUI's own form of declaration


def transformer_weights(architecture: FluxArchitecture) -> dict[str, Any]:
    """The transformer's weights under ComfyUI's names.

    Raises:
        FileNotFoundError: they are missing.
    """
    return comfy.model_detection.convert_diffusers_mmdit(load_part("transformer", architecture.folder))


def clip_parts(architecture: FluxArchitecture) -> tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What ``comfy.sd.CLIP`` is made of: target, weights, configurations of the encoders, settings of the tokenizers.

    Raises:
        FileNotFoundError: the weights are missing.
    """
    target = comfy.supported_models_base.ClipTarget(
        comfy.text_encoders.flux.FluxTokenizer, comfy.text_encoders.flux.FluxClipModel
    )
    state = {}
    for part, theirs in (("clip", "clip_l"), ("t5", "t5xxl")):
        for key, value in load_part(part, architecture.folder).items():
            state[f"{theirs}.transformer.{key.partition('.')[2]}"] = value
    t5 = architecture.t5
    sizes = {name: t5[name] for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")}
    configs = {"clip_l_model_config": dict(architecture.clip.config), "t5xxl_model_config": sizes}
    return target, state, configs, {"t5xxl_min_length": architecture.length}
