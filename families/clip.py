"""The CLIP text encoders of Stable Diffusion: what the weights do not say, and what LoRA files call them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .sites import Site, SiteError


@dataclass(frozen=True)
class Encoder:
    """One text encoder of one family of models.

    Attributes:
        family: the models that have it.
        heads: attention heads; all of these are 64 wide.
        activation: of the MLPs, by :data:`~.quickfix.encoder.tower.ACTIVATIONS`.
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


TEXT_KINDS = ("self_attn", "mlp", "hidden")


def text_sites(module: nn.Module) -> tuple[Site, ...]:
    """The sites of a CLIP text encoder, layer by layer, in the order of :data:`TEXT_KINDS`.

    Any module that holds ``encoder.layers`` of blocks with ``self_attn`` and ``mlp`` will do.

    Raises:
        SiteError: there is no such thing in the module, or more than one.
    """
    stacks = [
        layers
        for _, child in module.named_modules()
        if isinstance(layers := getattr(getattr(child, "encoder", None), "layers", None), nn.ModuleList)
        and layers
        and all(hasattr(layer, "self_attn") and hasattr(layer, "mlp") for layer in layers)
    ]
    if len({id(layers) for layers in stacks}) != 1:
        raise SiteError(
            f"Found {len(stacks)} stacks of transformer layers in {type(module).__name__}; expected one CLIP text "
            "encoder. Trace one text encoder at a time."
        )
    return tuple(
        Site(f"text.{number}.{kind}", kind, layer if kind == "hidden" else getattr(layer, kind))
        for number, layer in enumerate(stacks[0])
        for kind in TEXT_KINDS
    )


def encoder_of_width(width: int) -> str:
    """The key of :data:`ENCODERS` that a text encoder's width suggests, where nothing else tells."""
    return {1024: "clip_h", 1280: "sdxl_clip_g"}.get(width, "clip_l")
