"""The miniatures' shapes: Stable Diffusion 1.5 (Shapes), SDXL (Shapes XL) and Flux.1 (Shapes DiT), small.

Same parts, same topology, same names; only the widths are small. Every miniature has 128 x 128 pixels, an autoencoder
with eight-fold downsampling and sixteen latent channels (as in Stable Diffusion 3; four lose too much at this size),
and the vocabularies of its kind. What differs is one :class:`Architecture` or :class:`FluxArchitecture` each.
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
T5_VOCABULARY = 32128
T5_PAD = 0
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
class Miniature:
    """What every miniature has.

    Attributes:
        name: as people see it.
        world: what it was trained on.
        folder: where its weights lie.
        shared: where the autoencoder, the vision tower and the reader of its world lie.
    """

    name: str
    world: World
    folder: Path
    shared: Path = field(default=WEIGHTS, kw_only=True)


@dataclass(frozen=True)
class Architecture(Miniature):
    """A miniature with CLIP text towers and a UNet.

    Attributes:
        texts: its text towers by the names of their weights; their states stand side by side in this order.
        state: which hidden states the UNet reads: -1 the last, normed; -2 the penultimate, as they are.
        pooled: the tower whose projected pooled vector the UNet reads beside the sizes; None where it reads none.
        unet: diffusers' configuration.
    """

    texts: Mapping[str, TextTower]
    state: int
    pooled: str | None
    unet: Mapping[str, Any]

    @property
    def projection(self) -> int:
        """Width of the space that pictures and texts share."""
        return int(next(iter(self.texts.values())).config["projection_dim"])


@dataclass(frozen=True)
class FluxArchitecture(Miniature):
    """A miniature with a T5 encoder, a CLIP text tower for the pooled vector, and a transformer of Flux.1's kind.

    Attributes:
        t5: transformers' configuration of the encoder.
        length: tokens up to which T5's part of a prompt is filled with pads, which the transformer reads.
        clip: the tower whose end-of-text state, not projected, is the pooled vector.
        transformer: diffusers' configuration.
        shift: how far noise levels are moved towards noise, mu of t -> e^mu t / (1 + (e^mu - 1) t) (as Flux.1 has it).
    """

    t5: Mapping[str, Any]
    length: int
    clip: TextTower
    transformer: Mapping[str, Any]
    shift: float


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

_WIDTH_T5 = 160
SHAPES_DIT = FluxArchitecture(
    name="Shapes DiT",
    world=GALLERY,
    t5={
        "vocab_size": T5_VOCABULARY,
        "d_model": _WIDTH_T5,
        "d_kv": 20,
        "d_ff": 2 * _WIDTH_T5,
        "num_layers": 4,
        "num_heads": 8,
        "feed_forward_proj": "gated-gelu",
        "dropout_rate": 0.0,
    },
    length=40,
    clip=SHAPES_XL.texts["text_l"],
    transformer={
        "patch_size": 1,
        "in_channels": 4 * LATENT_CHANNELS,
        "num_layers": 4,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 6,
        "joint_attention_dim": _WIDTH_T5,
        "pooled_projection_dim": _WIDTH_L,
        "guidance_embeds": False,
        "axes_dims_rope": [8, 12, 12],
    },
    shift=0.7,
    folder=WEIGHTS / "gallery" / "dit",
    shared=WEIGHTS / "gallery",
)
"""Shapes DiT: T5's states and a pooled CLIP vector, four double-stream and four single-stream blocks on 64 patches."""

UNETS = {"shapes": SHAPES_SD1, "xl": SHAPES_XL}
ARCHITECTURES: dict[str, Architecture | FluxArchitecture] = {**UNETS, "dit": SHAPES_DIT}
