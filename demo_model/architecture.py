"""The miniatures' shapes: Stable Diffusion 1.5 (Shapes) and SDXL (Shapes XL), small.

Same parts, same topology, same names; only the widths are small. Every miniature has 128 x 128 pixels, an autoencoder
with eight-fold downsampling and sixteen latent channels (as in Stable Diffusion 3; four lose too much at this size),
and CLIP's vocabulary. What differs is one :class:`Architecture` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .worlds.catalog import GALLERY, SHAPES
from .worlds.world import World

IMAGE_SIZE = 128
LATENT_SIZE = IMAGE_SIZE // 8
LATENT_CHANNELS = 16
CONTEXT_LENGTH = 77
VOCABULARY = 49408
BOS, EOS = 49406, 49407
SIZE_WIDTH = 256
"""Numbers that one size takes in the vector beside the pooled text, as in SDXL."""
SIZES = 6
"""Height, width, crop from top and left, height and width aimed at."""

WEIGHTS = Path(__file__).parent / "weights"

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


def _text_config(width: int, layers: int, heads: int, activation: str, projection: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": CONTEXT_LENGTH,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": projection,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": EOS,
    }


_UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": LATENT_CHANNELS,
    "out_channels": LATENT_CHANNELS,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
}


@dataclass(frozen=True)
class TextTower:
    """A text tower: transformers' configuration, and the token that fills a prompt up to 77."""

    config: Mapping[str, Any]
    pad: int = EOS

    @property
    def width(self) -> int:
        return int(self.config["hidden_size"])


@dataclass(frozen=True)
class Architecture:
    """One miniature.

    Attributes:
        name: as people see it.
        world: what it was trained on.
        texts: its text towers by the names of their weights; their states stand side by side in this order.
        state: which hidden states the UNet reads: -1 the last, normed; -2 the penultimate, as they are.
        pooled: the tower whose projected pooled vector the UNet reads beside the sizes; None where it reads none.
        unet: diffusers' configuration.
        folder: where its weights lie.
        shared: where the autoencoder, the vision tower and the reader of its world lie.
    """

    name: str
    world: World
    texts: Mapping[str, TextTower]
    state: int
    pooled: str | None
    unet: Mapping[str, Any]
    folder: Path
    shared: Path = field(default=WEIGHTS)

    @property
    def projection(self) -> int:
        """Width of the space that pictures and texts share."""
        return int(next(iter(self.texts.values())).config["projection_dim"])


PROJECTION = 96
SHAPES_SD1 = Architecture(
    name="Shapes",
    world=SHAPES,
    texts={"text": TextTower(_text_config(128, 6, 8, "quick_gelu", PROJECTION))},
    state=-1,
    pooled=None,
    unet={
        **_UNET,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [64, 128, 128, 64],
        "attention_head_dim": 4,
        "cross_attention_dim": 128,
    },
    folder=WEIGHTS,
)
"""Shapes: one CLIP text tower, and a UNet of four levels with sixteen cross-attention layers."""

_WIDTH_L, _WIDTH_G = 96, 160
SHAPES_XL = Architecture(
    name="Shapes XL",
    world=GALLERY,
    # The projection of the larger tower is square, as ComfyUI takes it.
    texts={
        "text_l": TextTower(_text_config(_WIDTH_L, 4, 6, "quick_gelu", _WIDTH_G)),
        "text_g": TextTower(_text_config(_WIDTH_G, 4, 8, "gelu", _WIDTH_G), pad=0),
    },
    state=-2,
    pooled="text_g",
    unet={
        **_UNET,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [64, 128, 128],
        "transformer_layers_per_block": [1, 1, 2],
        "attention_head_dim": [2, 4, 4],
        "cross_attention_dim": _WIDTH_L + _WIDTH_G,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZE_WIDTH,
        "projection_class_embeddings_input_dim": _WIDTH_G + SIZES * SIZE_WIDTH,
    },
    folder=WEIGHTS / "gallery" / "xl",
    shared=WEIGHTS / "gallery",
)
"""Shapes XL: two CLIP text towers, penultimate states, pooled vector and sizes, a UNet of three levels."""

ARCHITECTURES = {"shapes": SHAPES_SD1, "xl": SHAPES_XL}
