"""Small image models that read Qwen3 or T5, with random weights, as the files that ComfyUI and diffusers know."""

from __future__ import annotations

import torch
from diffusers_models import CASES, build
from small_pipelines import stirred, text_encoder

WIDTH = 32


def qwen(width: int = WIDTH, layers: int = 3):
    """transformers' Qwen3 with the whole vocabulary."""
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(1)
    config = Qwen3Config(
        hidden_size=width,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=151936,
        rope_theta=1e6,
        rms_norm_eps=1e-6,
    )
    return _filled(Qwen3Model(config))


def t5(width: int = WIDTH):
    """transformers' T5 encoder, version 1.1, with the whole vocabulary."""
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(2)
    config = T5Config(
        d_model=width,
        d_ff=48,
        d_kv=8,
        num_heads=4,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        vocab_size=32128,
        dropout_rate=0.0,
    )
    return _filled(T5EncoderModel(config))


def qwen_vl(third: bool = False, layers: int = 3):
    """transformers' Qwen2.5-VL, or Qwen3-VL, with the whole vocabulary and a vision tower of next to nothing."""
    import transformers

    torch.manual_seed(1)
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
    }
    if third:
        sections = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
        vision = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": WIDTH}
        config = transformers.Qwen3VLConfig(
            text_config={**text, "head_dim": 16, "rope_parameters": sections, "tie_word_embeddings": True},
            vision_config={**vision, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        )
        return _filled(transformers.Qwen3VLModel(config))
    sections = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 1, 1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": sections},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "num_heads": 2,
            "intermediate_size": 16,
            "out_hidden_size": WIDTH,
            "fullatt_block_indexes": [0],
        },
    )
    return _filled(transformers.Qwen2_5_VLForConditionalGeneration(config))


def _filled(model: torch.nn.Module) -> torch.nn.Module:
    """Weights by which tokens matter; the table is some rows, again and again, each time turned by one place."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and len(parameter) > 30000:
                rows = torch.randn(4099, parameter.shape[1], generator=generator)
                for start in range(0, len(parameter), 4099):
                    part = parameter[start : start + 4099]
                    part.copy_(rows[: len(part)].roll(start // 4099, 1))
            elif parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[1] ** 0.5)
            elif "norm" in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def image_model(name: str) -> torch.nn.Module:
    """diffusers' small model of a family."""
    return stirred(build(CASES[name]), 4)


def clip(width: int = 16):
    """The CLIP-L of a small Flux.1."""
    return text_encoder(width, 5, layers=2)


# Of each family, its doors' parts in ComfyUI's names: what a file of it must have to be told, and to be edited.
COMFYUI = {
    "z-image": {
        "cap_embedder.0.weight": (WIDTH,),
        "cap_embedder.1.weight": (64, WIDTH),
        "cap_embedder.1.bias": (64,),
        "layers.0.attention.qkv.weight": (192, 64),
        "cap_pad_token": (1, 64),
    },
    "flux": {
        "txt_in.weight": (64, WIDTH),
        "txt_in.bias": (64,),
        "vector_in.in_layer.weight": (64, 16),
        "double_blocks.0.img_attn.qkv.weight": (192, 64),
    },
    "chroma": {
        "txt_in.weight": (64, WIDTH),
        "distilled_guidance_layer.in_proj.weight": (8, 8),
        "double_blocks.0.img_attn.qkv.weight": (192, 64),
    },
    "anima": {
        "blocks.0.cross_attn.k_proj.weight": (48, WIDTH),
        "blocks.0.cross_attn.v_proj.weight": (48, WIDTH),
        "blocks.0.mlp.layer1.weight": (8, 8),
        "llm_adapter.embed.weight": (32128, WIDTH),
        "llm_adapter.norm.weight": (WIDTH,),
        "llm_adapter.out_proj.weight": (WIDTH, WIDTH),
        "llm_adapter.out_proj.bias": (WIDTH,),
        "llm_adapter.blocks.0.mlp.0.weight": (64, WIDTH),
        "llm_adapter.blocks.0.mlp.0.bias": (64,),
        "llm_adapter.blocks.0.mlp.2.weight": (WIDTH, 64),
        "llm_adapter.blocks.0.mlp.2.bias": (WIDTH,),
        **{f"llm_adapter.blocks.0.norm_{part}.weight": (WIDTH,) for part in ("self_attn", "cross_attn", "mlp")},
        **{
            f"llm_adapter.blocks.0.{kind}_attn.{part}_proj.weight": (WIDTH, WIDTH)
            for kind in ("self", "cross")
            for part in "qkvo"
        },
        **{f"llm_adapter.blocks.0.{kind}_attn.{part}_norm.weight": (8,) for kind in ("self", "cross") for part in "qk"},
    },
}


def tensors(name: str, seed: int = 6) -> dict[str, torch.Tensor]:
    """The parts of an image model in ComfyUI's names."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator) for key, shape in COMFYUI[name].items()}


def named(model: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """A text encoder's own tensors, each once, as a file holds them."""
    found, seen = {}, set()
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:
            found[prefix + name] = value.contiguous()
            seen.add(value.data_ptr())
    return found
