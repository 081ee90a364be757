"""The result of an edit: a low-rank update of one weight, and its export as a LoRA."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field

import torch

from ...families.clip import ENCODERS
from ..concepts.concept import ConceptEdit
from ..concepts.settings import EditSettings
from ..solver.low_rank import LowRank
from .report import EditReport


@dataclass(frozen=True)
class WeightEdit:
    """An update of one weight, ``up @ down``, with what it was made from.

    Attributes:
        weight_name: CLIP's name of the weight, without any model prefix.
        up, down: factors (d_out, rank) and (rank, d_in) in fp32 on the CPU, copies of what was passed in.
        encoder: the text encoder that has the weight, a key of :data:`~.families.clip.ENCODERS`.
        base: :func:`weight_hash` of the weight that the edit was computed from; empty where not known.
    """

    weight_name: str
    up: torch.Tensor
    down: torch.Tensor
    concepts: tuple[ConceptEdit, ...]
    settings: EditSettings
    report: EditReport = field(compare=False)
    encoder: str = "clip_l"
    base: str = ""

    def __post_init__(self) -> None:
        # ComfyUI runs nodes in inference mode and caches their results; such tensors would stay unusable for autograd.
        with torch.inference_mode(False):
            for name in ("up", "down"):
                own = getattr(self, name).detach().to("cpu", torch.float32, copy=True).contiguous()
                object.__setattr__(self, name, own)

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def nbytes(self) -> int:
        return self.up.nbytes + self.down.nbytes

    def delta(self, strength: float = 1.0) -> torch.Tensor:
        """What to add to the weight, (d_out, d_in) in fp32."""
        return (self.up * strength) @ self.down

    def truncated(self, energy: float) -> WeightEdit:
        """The edit of least rank that keeps a share of this one's energy ||delta||^2 (Eckart-Young, by SVD).

        Args:
            energy: above 0, up to 1; at 1 the edit as it is.

        Raises:
            ValueError: energy out of range.
        """
        if not 0 < energy <= 1:
            raise ValueError(f"energy is {energy}; expected a share above 0, up to 1, such as 0.999.")
        if energy == 1 or not self.rank:
            return self
        # The factors may come from a file: make the rows of down orthonormal, as truncation wants them.
        basis, mixing = torch.linalg.qr(self.down.double().T)
        kept = LowRank(self.up.double() @ mixing.T, basis.T).truncated((1 - energy) ** 0.5)
        report = dataclasses.replace(self.report, rank=kept.rank, nbytes=4 * (kept.up.numel() + kept.down.numel()))
        return dataclasses.replace(self, up=kept.up, down=kept.down, report=report)

    def lora(
        self, prefix: str | None = None, *, naming: str = "kohya", dtype: torch.dtype = torch.float32
    ) -> dict[str, torch.Tensor]:
        """The edit as a LoRA: tensors by name, whose product at strength 1 is :meth:`delta`.

        Modules of zeros stand beside it where some UIs look for them (:meth:`~.families.clip.Encoder.idle_modules`).

        Args:
            prefix: what stands before the weight's name; by default that of the edit's text encoder.
            naming: "kohya" (lora_te_text_model_encoder_layers_0_...) or "comfyui" (text_encoders.clip_l....).

        Raises:
            ValueError: unknown naming.
        """
        encoder = ENCODERS[self.encoder]
        key = encoder.lora_key(self.weight_name, naming, prefix)
        # Loaders divide alpha by the rank, so an edit that does nothing still has one row of zeros.
        rank = max(1, self.rank)
        up, down = self.up.new_zeros(self.up.shape[0], rank), self.down.new_zeros(rank, self.down.shape[1])
        up[:, : self.rank], down[: self.rank] = self.up, self.down
        found = _module(key, up, down, dtype)
        for name, width in encoder.idle_modules(self.weight_name, naming, self.up.shape[0], prefix).items():
            found |= _module(name, up.new_zeros(width, 1), up.new_zeros(1, width), dtype)
        return found


def _module(key: str, up: torch.Tensor, down: torch.Tensor, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The tensors of one module of a LoRA; loaders divide alpha by the rank."""
    return {
        f"{key}.lora_up.weight": up.to(dtype),
        f"{key}.lora_down.weight": down.to(dtype),
        f"{key}.alpha": torch.tensor(float(up.shape[1])),
    }


def weight_hash(weight: torch.Tensor) -> str:
    """SHA-256 of a weight's values in fp32, row by row; tells whether two files hold the same weight."""
    return hashlib.sha256(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()).hexdigest()
