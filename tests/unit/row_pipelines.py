"""Small pipelines of diffusers' own classes whose image models read Qwen or T5, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import row_models
import torch
from small_pipelines import text_encoder, tokenizer

CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NAMES = ("z-image", "flux", "sd3", "qwen-image", "krea2", "pixart")


def qwen_tokenizer(comfyui: Path) -> Any:
    """With Qwen's chat template."""
    from transformers import Qwen2Tokenizer

    made = Qwen2Tokenizer.from_pretrained(comfyui / "comfy" / "text_encoders" / "qwen25_tokenizer")
    made.chat_template = CHAT
    return made


def t5_tokenizer(comfyui: Path) -> Any:
    from transformers import T5TokenizerFast

    return T5TokenizerFast.from_pretrained(comfyui / "comfy" / "text_encoders" / "t5_tokenizer")


def pipeline(name: str, comfyui: Path) -> Any:
    """The pipeline of a family."""
    import diffusers

    parts: dict[str, Any] = {"vae": None, "transformer": row_models.image_model(name)}
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    if name == "z-image":
        parts |= {"text_encoder": row_models.qwen(), "tokenizer": qwen_tokenizer(comfyui), "scheduler": flow}
        return diffusers.ZImagePipeline(**parts)
    if name == "qwen-image":
        parts |= {"text_encoder": row_models.qwen_vl(), "tokenizer": qwen_tokenizer(comfyui), "scheduler": flow}
        return diffusers.QwenImagePipeline(**parts)
    if name == "krea2":
        parts |= {"text_encoder": row_models.qwen_vl(True), "tokenizer": qwen_tokenizer(comfyui), "scheduler": flow}
        return diffusers.Krea2Pipeline(**parts, text_encoder_select_layers=(0, 1, 2))
    if name == "pixart":
        parts |= {"text_encoder": row_models.t5(), "tokenizer": t5_tokenizer(comfyui)}
        return diffusers.PixArtSigmaPipeline(**parts, scheduler=diffusers.DPMSolverMultistepScheduler())
    if name == "flux":
        parts |= {"text_encoder": row_models.clip(), "tokenizer": tokenizer(), "scheduler": flow}
        parts |= {"text_encoder_2": row_models.t5(), "tokenizer_2": t5_tokenizer(comfyui)}
        return diffusers.FluxPipeline(**parts)
    parts |= {"text_encoder": text_encoder(12, 5, vector=6), "tokenizer": tokenizer(), "scheduler": flow}
    parts |= {"text_encoder_2": text_encoder(16, 6, activation="gelu", vector=10), "tokenizer_2": tokenizer("!")}
    parts |= {"text_encoder_3": row_models.t5(), "tokenizer_3": t5_tokenizer(comfyui)}
    return diffusers.StableDiffusion3Pipeline(**parts)


def encoded(pipe: Any, prompt: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What the pipeline itself gives its transformer for one prompt: the states (tokens, width) that count, and the
    pooled vector."""
    name = type(pipe).__name__
    with torch.no_grad():
        if name == "ZImagePipeline":
            return pipe.encode_prompt([prompt], "cpu", do_classifier_free_guidance=False)[0][0], None
        if name == "QwenImagePipeline":
            return pipe.encode_prompt([prompt], "cpu")[0][0], None
        if name == "Krea2Pipeline":
            states, mask = pipe.encode_prompt([prompt], "cpu", max_sequence_length=64)
            return states[0][mask[0]].flatten(1), None
        if name == "PixArtSigmaPipeline":
            states, mask, *_ = pipe.encode_prompt([prompt], False, device="cpu")
            return states[0][mask[0].bool()], None
        if name == "FluxPipeline":
            states, pooled, _ = pipe.encode_prompt(prompt, prompt, device="cpu")
            return states[0], pooled
        states, _, pooled, _ = pipe.encode_prompt(prompt, prompt, prompt, device="cpu")
        return states[0], pooled
