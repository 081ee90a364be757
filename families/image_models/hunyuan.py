"""HunyuanImage 2.1: one map reads the text token by token, ``txt_in.input_embedder``, and one its mean, ``c_embedder``.

Both read the text states as they are. The second reads their mean over the tokens, which modulates the text's refiner
together with the time step; a map of the states is the same map of their mean, so that one edit serves both. Quoted
words also reach the model through ByT5 (``byt5_in``), which no door here changes. Read in ComfyUI's
``ldm/hunyuan_video/model.py`` and ``model_base.py`` and in diffusers' ``transformer_hunyuanimage.py``; checked by
perturbation of small models with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..door import Place, Refusal, Sign
from ..family import Family


def _is_image(shapes: Mapping[str, Any]) -> bool:
    """HunyuanVideo's patches have a third dimension."""
    return len(shapes.get("img_in.proj.weight", ())) == 4


HUNYUAN_IMAGE = Family(
    "hunyuan-image",
    "HunyuanImage 2.1",
    "causal",
    ("qwen25_7b",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 3.5, with which a negative prompt works; the distilled model's use 1.",
    (
        Place("entrance", "txt_in.input_embedder", "context_embedder.proj_in"),
        Place(
            "entrance",
            "txt_in.c_embedder.in_layer",
            "context_embedder.time_text_embed.text_embedder.linear_1",
        ),
    ),
    (
        Sign(
            "comfyui",
            ("txt_in.input_embedder.weight", "double_blocks.0.img_attn.qkv.weight"),
            ("vector_in.in_layer.weight",),
            test=_is_image,
        ),
        Sign(
            "diffusers",
            ("context_embedder.proj_in.weight", "transformer_blocks.0.attn.add_k_proj.weight"),
            test=lambda shapes: len(shapes.get("x_embedder.proj.weight", ())) == 4,
        ),
    ),
    (
        Refusal(r"txt_in\.c_embedder\.out_layer|.*\.text_embedder\.linear_2", "door"),
        Refusal(
            r"(txt_in\.individual_token_refiner|context_embedder\.token_refiner).*blocks\.0\.(self_)?attn\.\w+", "door"
        ),
        Refusal(r"guidance_in\..*|.*\.guidance_embedder\..*", "guidance"),
        Refusal(r"(txt_in\.(t_embedder|individual)|context_embedder|time_in|time_r_in|time_guid).*", "time"),
        Refusal(r"double_blocks\.0\.txt_attn\.qkv|transformer_blocks\.0\.attn\.add_[qkv]_proj", "time"),
        Refusal(
            r".*(_mod|modulation)\.lin|final_layer\.adaLN.*|.*\.norm1?(_context)?\.linear|norm_out\.linear", "time"
        ),
        Refusal(r"(double|single)_blocks\.\d+\..*|(single_)?transformer_blocks\.\d+\..*", "picture"),
        Refusal(r"final_layer\.linear|proj_out", "picture"),
    ),
)
