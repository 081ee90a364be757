"""The result of an edit: a low-rank update of one weight, and its export as a LoRA."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .report import EditReport
from .request import ConceptEdit, EditSettings

_LORA_PREFIX = {"kohya": "lora_te_text_model", "comfyui": "text_encoders.clip_l.transformer.text_model"}


@dataclass(frozen=True)
class WeightEdit:
    """An update of one weight, ``up @ down``, with what it was made from.

    Attributes:
        weight_name: CLIP's name of the weight, without any model prefix.
        up, down: factors (d_out, rank) and (rank, d_in) in fp32, copies of what was passed in.
    """

    weight_name: str
    up: torch.Tensor
    down: torch.Tensor
    concepts: tuple[ConceptEdit, ...]
    settings: EditSettings
    report: EditReport = field(compare=False)

    def __post_init__(self) -> None:
        # ComfyUI runs nodes in inference mode and caches their results; such tensors would stay unusable for autograd.
        with torch.inference_mode(False):
            for name in ("up", "down"):
                object.__setattr__(self, name, getattr(self, name).detach().to(torch.float32, copy=True).contiguous())

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def nbytes(self) -> int:
        return self.up.nbytes + self.down.nbytes

    def delta(self, strength: float = 1.0) -> torch.Tensor:
        """What to add to the weight, (d_out, d_in) in fp32."""
        return (self.up * strength) @ self.down

    def lora(
        self, prefix: str | None = None, *, naming: str = "kohya", dtype: torch.dtype = torch.float32
    ) -> dict[str, torch.Tensor]:
        """The edit as a LoRA: tensors by name, whose product at strength 1 is :meth:`delta`.

        Args:
            prefix: what stands before the weight's name; by default that of Stable Diffusion 1.x.
            naming: "kohya" (lora_te_text_model_encoder_layers_0_...) or "comfyui" (text_encoders.clip_l....).

        Raises:
            ValueError: unknown naming.
        """
        if naming not in _LORA_PREFIX:
            raise ValueError(f"Unknown LoRA naming {naming!r}; expected one of {', '.join(_LORA_PREFIX)}.")
        prefix, module = prefix or _LORA_PREFIX[naming], self.weight_name.removesuffix(".weight")
        key = f"{prefix}_{module.replace('.', '_')}" if naming == "kohya" else f"{prefix}.{module}"
        # Loaders divide alpha by the rank, so an edit that does nothing still has one row of zeros.
        rank = max(1, self.rank)
        up, down = self.up.new_zeros(self.up.shape[0], rank), self.down.new_zeros(rank, self.down.shape[1])
        up[:, : self.rank], down[: self.rank] = self.up, self.down
        return {
            f"{key}.lora_up.weight": up.to(dtype),
            f"{key}.lora_down.weight": down.to(dtype),
            f"{key}.alpha": torch.tensor(float(rank)),
        }
