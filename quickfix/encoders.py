"""The CLIP text encoders of Stable Diffusion: what the weights do not say, and what LoRA files call them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Encoder:
    """One text encoder of one family of models.

    Attributes:
        family: the models that have it.
        heads: attention heads; all of these are 64 wide.
        activation: of the MLPs, by :data:`~.tower.ACTIVATIONS`.
        pad_token: the token id that fills a prompt up to the context length.
        kohya, comfyui: what LoRA files put before the names of its weights.
        causal: whether its first self-attention holds the one causal state of a concept (Basu et al. 2024); where it
            does not, an edit reaches only a part of what the model knows (arXiv 2405.01008).
    """

    family: str
    heads: int
    activation: str
    pad_token: int
    kohya: str
    comfyui: str
    causal: bool = True

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
        raise ValueError(f"Unknown LoRA naming {naming!r}; expected one of {', '.join(NAMINGS)}.")


NAMINGS = ("kohya", "comfyui")
ENCODERS = {
    "clip_l": Encoder(
        "Stable Diffusion 1.x",
        12,
        "quick_gelu",
        49407,
        "lora_te_text_model",
        "text_encoders.clip_l.transformer.text_model",
    ),
    "clip_h": Encoder(
        "Stable Diffusion 2.x", 16, "gelu", 0, "lora_te_text_model", "text_encoders.clip_h.transformer.text_model"
    ),
    "sdxl_clip_l": Encoder(
        "SDXL", 12, "quick_gelu", 49407, "lora_te1_text_model", "text_encoders.clip_l.transformer.text_model", False
    ),
    "sdxl_clip_g": Encoder(
        "SDXL", 20, "gelu", 0, "lora_te2_text_model", "text_encoders.clip_g.transformer.text_model", False
    ),
}
