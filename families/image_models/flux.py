"""Flux.1, Flux.2, Klein, Chroma, LongCat and Ovis: one map, ``txt_in``, through which the text enters.

It reads the text states as they are (behind an RMS norm in Ovis). Flux.1 also reads CLIP-L's pooled vector
(``vector_in.in_layer``). From the first block on the text stream is modulated by the time step (and in Flux.1 by the
pooled vector), behind it by the picture; single-stream blocks let picture and text through the same matrix. T5's pads
enter unmasked. Read in ComfyUI's ``ldm/flux/model.py``, ``ldm/chroma/model.py``, ``ldm/chroma_radiance/model.py`` and
``model_base.py`` and in diffusers' ``transformer_flux.py``, ``transformer_flux2.py`` and ``transformer_chroma.py``;
checked by perturbation of small models with random weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..door import Place, Refusal, Sign, width_of
from ..family import Family


def _normed(module: Any, states: Tensor, extras: Mapping[str, Any]) -> Tensor:
    norm = getattr(module, "txt_norm", None)
    if norm is None:
        norm = module.context_embedder_norm
    result: Tensor = norm(states)
    return result


_ENTRANCE = Place("entrance", "txt_in", "context_embedder")
_VECTOR = Place("pooled", "vector_in.in_layer", "time_text_embed.text_embedder.linear_1")
_REFUSED = (
    Refusal(r"vector_in\.out_layer|time_text_embed\.text_embedder\.linear_2", "door"),
    Refusal(r"(double_blocks\.0\.txt_attn\.qkv|transformer_blocks\.0\.attn\.add_[qkv]_proj)", "time"),
    Refusal(r"guidance_in\..*|.*\.guidance_embedder\..*", "guidance"),
    Refusal(r"(time_in|time_text_embed|time_guidance_embed|distilled_guidance_layer)\..*", "time"),
    Refusal(r".*(_mod|modulation|_modulation_img|_modulation_txt)\.(lin|linear)|final_layer\.adaLN.*", "time"),
    Refusal(r".*\.norm1?(_context)?\.linear|norm_out\.linear", "time"),
    Refusal(r"(double|single)_blocks\.\d+\..*|(single_)?transformer_blocks\.\d+\..*", "picture"),
    Refusal(r"img_in|x_embedder|final_layer\.linear|proj_out", "picture"),
)
_NO_NEGATIVE = "Stock settings use a guidance of 1, with which a negative prompt does nothing."
_TREE = ("txt_in.weight", "double_blocks.0.img_attn.qkv.weight")
_DIFFUSERS = ("context_embedder.weight", "transformer_blocks.0.attn.add_k_proj.weight")
_VECTOR_IN, _TEXT_EMBEDDER = "vector_in.in_layer.weight", "time_text_embed.text_embedder.linear_1.weight"
_FLUX2, _FLUX2_DIFFUSERS = "double_stream_modulation_img.lin.weight", "double_stream_modulation_img.linear.weight"
_GUIDED, _GUIDED_DIFFUSERS = "guidance_in.in_layer.weight", "time_guidance_embed.guidance_embedder.linear_1.weight"
_CHROMA, _YAK = "distilled_guidance_layer.in_proj.weight", "double_blocks.0.img_mlp.gate_proj.weight"
_SINGLE = "single_transformer_blocks.0.attn.to_q.weight"
# Of the text encoder that LongCat reads.
_QWEN25_7B = 3584


def _is_longcat(shapes: Mapping[str, Any]) -> bool:
    return max(width_of(shapes, "txt_in.weight"), width_of(shapes, "context_embedder.weight")) == _QWEN25_7B


def _has_norm(shapes: Mapping[str, Any]) -> bool:
    return "txt_norm.weight" in shapes or "txt_norm.scale" in shapes


FLUX = Family(
    "flux",
    "Flux.1 (dev, schnell, Krea, Kontext)",
    "bidirectional",
    ("t5xxl",),
    "one",
    "CLIP-L's end-of-text state, not projected",
    False,
    _NO_NEGATIVE,
    (_ENTRANCE, _VECTOR),
    (
        Sign("comfyui", (*_TREE, _VECTOR_IN), (_CHROMA,)),
        Sign("diffusers", (*_DIFFUSERS, _TEXT_EMBEDDER, _SINGLE), ("pos_embed.proj.weight",)),
    ),
    _REFUSED,
    diffusers_prefix="transformer.",
)
CHROMA = Family(
    "chroma",
    "Chroma (also Radiance)",
    "bidirectional",
    ("t5xxl",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 3.5, with which a negative prompt works.",
    (_ENTRANCE,),
    (
        Sign("comfyui", (*_TREE, _CHROMA)),
        Sign("diffusers", (*_DIFFUSERS, "distilled_guidance_layer.in_proj.weight"), (_TEXT_EMBEDDER,)),
    ),
    _REFUSED,
    diffusers_prefix="transformer.",
)
FLUX2 = Family(
    "flux2",
    "Flux.2 dev",
    "causal",
    ("mistral3_24b",),
    "one",
    "",
    False,
    _NO_NEGATIVE,
    (_ENTRANCE,),
    (
        Sign("comfyui", (*_TREE, _FLUX2, _GUIDED)),
        Sign("diffusers", (*_DIFFUSERS, _FLUX2_DIFFUSERS, _GUIDED_DIFFUSERS)),
    ),
    _REFUSED,
    diffusers_prefix="transformer.",
)
# Of Klein's two sizes the width of the states tells which Qwen3 wrote them: three layers of 2560 or of 4096.
_KLEIN_8B = 3 * 4096


def _klein(name: str, title: str, encoder: str, large: bool) -> Family:
    def fits(shapes: Mapping[str, Any]) -> bool:
        width = max(width_of(shapes, "txt_in.weight"), width_of(shapes, "context_embedder.weight"))
        return (width == _KLEIN_8B) == large

    return Family(
        name,
        title,
        "causal",
        (encoder,),
        "one",
        "",
        False,
        "The distilled model's stock settings use a guidance of 1, with which a negative prompt does nothing; the base "
        "model's use 5.",
        (_ENTRANCE,),
        (
            Sign("comfyui", (*_TREE, _FLUX2), (_GUIDED,), test=fits),
            Sign("diffusers", (*_DIFFUSERS, _FLUX2_DIFFUSERS), (_GUIDED_DIFFUSERS,), test=fits),
        ),
        _REFUSED,
        diffusers_prefix="transformer.",
    )


KLEIN_4B = _klein("flux2-klein-4b", "Flux.2 Klein 4B", "qwen3_4b", False)
KLEIN_9B = _klein("flux2-klein-9b", "Flux.2 Klein 9B", "qwen3_8b", True)
LONGCAT = Family(
    "longcat",
    "LongCat-Image",
    "causal",
    ("qwen25_7b",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 4 or so, with which a negative prompt works.",
    (_ENTRANCE,),
    (
        Sign("comfyui", _TREE, (_VECTOR_IN, _CHROMA, _FLUX2, _YAK), test=_is_longcat),
        Sign(
            "diffusers",
            (*_DIFFUSERS, _SINGLE),
            (_TEXT_EMBEDDER, _CHROMA, _FLUX2_DIFFUSERS, "context_embedder_norm.weight"),
            test=_is_longcat,
        ),
    ),
    _REFUSED,
)
OVIS = Family(
    "ovis",
    "Ovis-Image",
    "causal",
    ("qwen3_2b",),
    "one",
    "",
    True,
    "Stock settings use a guidance of 5 or so, with which a negative prompt works.",
    (_ENTRANCE,),
    (
        Sign("comfyui", (*_TREE, _YAK), (_VECTOR_IN, _CHROMA, _FLUX2), test=_has_norm),
        Sign("diffusers", (*_DIFFUSERS, _SINGLE, "context_embedder_norm.weight"), (_TEXT_EMBEDDER,)),
    ),
    _REFUSED,
    fronts={"text": _normed},
    front_modules=("txt_norm",),
)
