"""The shape of Shapes: Stable Diffusion 1.5 in miniature.

Same parts, same topology, same names: a CLIP text tower, an autoencoder with eight-fold downsampling and sixteen
latent channels (as in Stable Diffusion 3; four lose too much at this size), and a cross-attention UNet with four
levels, two residual blocks a level and sixteen cross-attention layers. Only the widths are small.
"""

from __future__ import annotations

from typing import Any

IMAGE_SIZE = 128
LATENT_SIZE = IMAGE_SIZE // 8
LATENT_CHANNELS = 16
CONTEXT_LENGTH = 77
VOCABULARY = 49408
BOS, EOS = 49406, 49407

TEXT_WIDTH = 128
TEXT_LAYERS = 6
TEXT_HEADS = 8
PROJECTION = 96

TEXT_CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "num_hidden_layers": TEXT_LAYERS,
    "num_attention_heads": TEXT_HEADS,
    "max_position_embeddings": CONTEXT_LENGTH,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": PROJECTION,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
    "pad_token_id": EOS,
}

UNET_CONFIG: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [64, 128, 128, 64],
    "layers_per_block": 2,
    "attention_head_dim": 4,
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
}

SCHEDULER_CONFIG: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}
