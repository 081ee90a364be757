"""Model files as they are found in the wild, of any size: what is not written is a hole, and costs no disk."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from diff_quickfix.quickfix import EVERYDAY, PRESERVED, TextTower
from diff_quickfix.text.captions import PUBLISHED_TEMPLATES, expand

VOCABULARY = 49408
TABLE = "embeddings.token_embedding.weight"
KINDS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
# Layouts of text encoders: what stands before the names, and whether the names are OpenCLIP's.
LAYOUTS = {
    "sd1": ("cond_stage_model.transformer.text_model.", False),
    "old sd1": ("cond_stage_model.transformer.", False),
    "sd2": ("cond_stage_model.model.", True),
    "sdxl, first": ("conditioner.embedders.0.transformer.text_model.", False),
    "sdxl, second": ("conditioner.embedders.1.model.", True),
    "bare": ("text_model.", False),
    "comfyui": ("clip_l.transformer.text_model.", False),
    "no prefix": ("", False),
}


def used_tokens(tokenizer, *concepts: str) -> list[int]:
    """The token ids of everyday prompts, and of some concepts in their captions."""
    texts = [*EVERYDAY, *PRESERVED, *(text for concept in concepts for text in expand(PUBLISHED_TEMPLATES, concept))]
    return sorted({token for prompt in tokenizer.tokenize_all(texts) for token in (*prompt.ids, 0)})


def tower_weights(width: int, layers: int, tokens: list[int], dtype=torch.float32, seed=0) -> dict[str, torch.Tensor]:
    """A random CLIP text tower; its table is zero but for some tokens' rows."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 0.05 * torch.randn(shape, generator=generator)

    table = torch.zeros(VOCABULARY, width, dtype=dtype)
    table[tokens] = random(len(tokens), width).to(dtype)
    weights = {TABLE: table, "embeddings.position_embedding.weight": random(77, width)}
    linear = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    linear |= {"mlp.fc1": (2 * width, width), "mlp.fc2": (width, 2 * width)}
    for layer in range(layers):
        for name, shape in linear.items():
            weights[f"encoder.layers.{layer}.{name}.weight"] = random(*shape)
            weights[f"encoder.layers.{layer}.{name}.bias"] = random(shape[0])
        for norm in (f"encoder.layers.{layer}.layer_norm1", f"encoder.layers.{layer}.layer_norm2"):
            weights |= {f"{norm}.weight": 1 + random(width), f"{norm}.bias": random(width)}
    weights |= {"final_layer_norm.weight": 1 + random(width), "final_layer_norm.bias": random(width)}
    return {name: value.to(dtype) for name, value in weights.items()}


def laid_out(weights: dict[str, torch.Tensor], layout: str) -> dict[str, torch.Tensor]:
    """The tower under the names of a kind of file; written from OpenCLIP's module tree, not from the reader."""
    prefix, openclip = LAYOUTS[layout]
    if not openclip:
        return {prefix + name: value for name, value in weights.items()}
    found = {}
    for name, value in weights.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            fused = [weights[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            found[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(fused)
        elif not re.search(r"\.[kv]_proj\.", name):
            name = name.replace("encoder.layers", "transformer.resblocks").replace("self_attn", "attn")
            name = name.replace("layer_norm", "ln_").replace("final_ln_", "ln_final")
            name = name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")
            name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
            found[name.replace("embeddings.token", "token")] = value
    return {prefix + name: value for name, value in found.items()}


def write(
    path: Path,
    tensors: dict[str, torch.Tensor],
    holes: dict[str, tuple[str, tuple[int, ...]]] | None = None,
    tokens: list[int] | None = None,
) -> Path:
    """A safetensors file of some tensors and, before them, holes given as (kind, shape) of half precision.

    Of a table of token embeddings, only the rows of ``tokens`` are written, if given.
    """
    header: dict = {"__metadata__": {"format": "pt", "modelspec.title": "a model"}}
    at = 0
    for name, (kind, shape) in (holes or {}).items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at := at + 2 * math.prod(shape)]}
    for name, value in tensors.items():
        size = value.numel() * value.element_size()
        header[name] = {"dtype": KINDS[value.dtype], "shape": list(value.shape), "data_offsets": [at, at := at + size]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        begin = file.tell()
        file.truncate(begin + at)
        for name, value in tensors.items():
            start = begin + header[name]["data_offsets"][0]
            table = tokens is not None and value.ndim == 2 and len(value) == VOCABULARY
            for number in tokens if table else [None]:
                part = value if number is None else value[number]
                file.seek(start + (0 if number is None else number * part.numel() * part.element_size()))
                file.write(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return path


def config(width: int, heads: int, activation: str = "quick_gelu") -> str:
    return json.dumps({"hidden_size": width, "num_attention_heads": heads, "hidden_act": activation})


def oracle(weights: dict[str, torch.Tensor], heads: int, activation: str = "quick_gelu", encoder="clip_l") -> TextTower:
    """The tower over the weights in memory."""
    return TextTower.from_weights(weights, heads=heads, activation=activation, encoder=encoder)
