"""The CLIP text encoders of Stable Diffusion: what the weights do not say, and what LoRA files call them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Encoder:
    """One text encoder of one family of models.

    Attributes:
        family: the models that have it.
        heads: attention heads; all of these are 64 wide.
        activation: of the MLPs, by :data:`~.quickfix.encoder.tower.ACTIVATIONS`.
        pad_token: the token id that fills a prompt up to the context length.
        kohya, comfyui: what LoRA files put before the names of its weights.
        kohya_version: what kohya's trainer calls the models in a LoRA's metadata.
        architecture: what the ModelSpec calls the models.
        beside: kohya's prefix and the width of the other text encoder of its family, where there is one.
        depth: its layers in a whole checkpoint.
        skipped: how many of them, the last ones, its image model does not read.
        fused: whether some UIs keep its queries, keys and values as one matrix (OpenCLIP's form).
        causal: whether its first self-attention holds the one causal state of a concept (Basu et al. 2024); where it
            does not, an edit reaches only a part of what the model knows (arXiv 2405.01008).
        title: what people call it.
        normed: whether its image model reads the last hidden states behind the final layer norm.
    """

    family: str
    heads: int
    activation: str
    pad_token: int
    kohya: str
    comfyui: str
    kohya_version: str
    architecture: str
    causal: bool = True
    beside: tuple[str, int] | None = None
    fused: bool = False
    depth: int = 12
    skipped: int = 0
    title: str = "CLIP-L"
    normed: bool = True

    @property
    def full_title(self) -> str:
        """What people call it, and whose it is: "CLIP-L of SDXL"."""
        return f"{self.title} of {self.family}"

    @property
    def module(self) -> str:
        """What ComfyUI calls it among the text encoders of a model: "clip_l", "clip_g" or "clip_h"."""
        return self.comfyui.split(".")[1]

    def lora_key(self, weight_name: str, naming: str, prefix: str | None = None) -> str:
        """What a LoRA file calls a weight, without ``.lora_up.weight`` and so on.

        Raises:
            ValueError: unknown naming.
        """
        module = weight_name.removesuffix(".weight")
        if naming == "kohya":
            return f"{prefix or self.kohya}_{module.replace('.', '_')}"
        if naming == "comfyui":
            return f"{prefix or self.comfyui}.{module}"
        if naming == "diffusers":
            component = "text_encoder_2" if self.kohya.startswith("lora_te2") else "text_encoder"
            return f"{prefix or component}.text_model.{module}"
        raise ValueError(f"Unknown LoRA naming {naming!r}; expected one of {', '.join(NAMINGS)}, diffusers.")

    def idle_modules(self, weight_name: str, naming: str, width: int, prefix: str | None = None) -> dict[str, int]:
        """Modules that a LoRA file holds beside an edited output projection so that other UIs take it: they change
        nothing.

        A UI that keeps an attention's queries, keys and values as one matrix patches it only when all of its parts are
        there (A1111); one that tells SDXL's LoRAs by their text encoders looks for both (InvokeAI). Both read kohya's
        names alone.

        Args:
            width: of the edited text encoder.

        Returns:
            The modules' names, with the width of their square weights.
        """
        if naming != "kohya" or not weight_name.endswith(".self_attn.out_proj.weight"):
            return {}
        attention = self.lora_key(weight_name, naming, prefix).removesuffix("out_proj")
        found = {f"{attention}{part}_proj": width for part in "qkv"} if self.fused else {}
        if self.beside is not None:
            other, other_width = self.beside
            found[self.lora_key(weight_name, naming, other)] = other_width
        return found


NAMINGS = ("kohya", "comfyui")
# For each family what kohya's trainer and the ModelSpec call it. Nothing in a text encoder tells which 2.x it is of.
_SD1 = ("sd_v1", "stable-diffusion-v1")
_SD2 = ("sd_v2", "stable-diffusion-v2-768-v")
_SDXL = ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base")
_SD3: dict[str, Any] = {
    "family": "Stable Diffusion 3",
    "kohya_version": "sd3",
    "architecture": "stable-diffusion-3",
    "beside": None,
}
_FLUX = {**_SD3, "family": "Flux.1", "kohya_version": "flux1", "architecture": "flux-1-dev"}
ENCODERS: dict[str, Encoder] = {
    "clip_l": Encoder(
        "Stable Diffusion 1.x",
        12,
        "quick_gelu",
        49407,
        "lora_te_text_model",
        "text_encoders.clip_l.transformer.text_model",
        *_SD1,
    ),
    "clip_h": Encoder(
        "Stable Diffusion 2.x",
        16,
        "gelu",
        0,
        "lora_te_text_model",
        "text_encoders.clip_h.transformer.text_model",
        *_SD2,
        fused=True,
        depth=24,
        skipped=1,
        title="CLIP-H",
    ),
    "sdxl_clip_l": Encoder(
        "SDXL",
        12,
        "quick_gelu",
        49407,
        "lora_te1_text_model",
        "text_encoders.clip_l.transformer.text_model",
        *_SDXL,
        causal=False,
        beside=("lora_te2_text_model", 1280),
        skipped=1,
        normed=False,
    ),
    "sdxl_clip_g": Encoder(
        "SDXL",
        20,
        "gelu",
        0,
        "lora_te2_text_model",
        "text_encoders.clip_g.transformer.text_model",
        *_SDXL,
        causal=False,
        beside=("lora_te1_text_model", 768),
        fused=True,
        depth=32,
        skipped=1,
        title="CLIP-G",
        normed=False,
    ),
}
# The towers of SDXL in other families. Flux reads of its CLIP-L the pooled vector alone, which the last layer gives.
ENCODERS |= {
    "sd3_clip_l": replace(ENCODERS["sdxl_clip_l"], **_SD3),
    "sd3_clip_g": replace(ENCODERS["sdxl_clip_g"], **_SD3),
    "flux_clip_l": replace(ENCODERS["sdxl_clip_l"], **_FLUX, skipped=0, normed=True),
}


def encoder_of_width(width: int) -> str:
    """The key of :data:`ENCODERS` that a text encoder's width suggests, where nothing else tells."""
    return {1024: "clip_h", 1280: "sdxl_clip_g"}.get(width, "clip_l")
