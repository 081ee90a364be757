"""The result of an edit: a low-rank update of one weight, or of many that share a factor, and its export as a LoRA."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ...families.clip import ENCODERS
from ...families.doors import Door, family_named
from ..concepts.concept import ConceptEdit
from ..concepts.settings import EditSettings
from ..encoder.states import STATES
from ..solver.low_rank import LowRank
from .report import EditReport


@dataclass(frozen=True, eq=False)
class DoorUpdate:
    """The update of one door's weight, ``up @ down`` with the ``down`` that all doors share that read the same.

    Attributes:
        door: the door.
        up: (d_out, rank) of the whole weight, in fp32 on the CPU; zeros in rows that are not the door's.
    """

    door: Door
    up: torch.Tensor


@dataclass(frozen=True)
class WeightEdit:
    """An update of one weight, ``up @ down``, with what it was made from; or of all doors that read the text states.

    An edit of the doors of an image model has the map of the text states in ``up`` and ``down``, c -> c + up @ down c,
    which may be applied to the states themselves (:meth:`applied`), and each door's own factor in ``doors``.

    Attributes:
        weight_name: CLIP's name of the weight, without any model prefix; ``STATES`` for an edit of the text states.
        up, down: factors (d_out, rank) and (rank, d_in) in fp32 on the CPU, copies of what was passed in.
        encoder: the text encoder that has the weight, a key of :data:`~.families.clip.ENCODERS`; the name of the family
            of image models for an edit of the text states.
        base: :func:`weight_hash` of the weight that the edit was computed from; empty where not known. Of several
            doors, that of the first.
        pooled: the map of the pooled vector, where its door is edited too.
        doors: the updates of the doors.
        others: edits of other text encoders of the same model, of the same concepts, that belong to this one.
    """

    weight_name: str
    up: torch.Tensor
    down: torch.Tensor
    concepts: tuple[ConceptEdit, ...]
    settings: EditSettings
    report: EditReport = field(compare=False)
    encoder: str = "clip_l"
    base: str = ""
    pooled: LowRank | None = field(default=None, compare=False)
    doors: tuple[DoorUpdate, ...] = field(default=(), compare=False)
    others: tuple[WeightEdit, ...] = field(default=(), compare=False)

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

    @property
    def parts(self) -> tuple[WeightEdit, ...]:
        """The edit of each text encoder by itself; of one text encoder or of doors, the edit as it is."""
        return (dataclasses.replace(self, others=()), *self.others) if self.others else (self,)

    @classmethod
    def joined(cls, parts: Sequence[WeightEdit]) -> WeightEdit:
        """The edits of several text encoders of one model as one."""
        return dataclasses.replace(parts[0], others=tuple(parts[1:])) if len(parts) > 1 else parts[0]

    @property
    def of_states(self) -> bool:
        """Whether it edits the text states that an image model reads, by its doors, and no text encoder."""
        return self.weight_name == STATES

    def applied(self, states: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        """Text states (..., width) with an edit of the text states applied, in their own type and on their device.

        Raises:
            ValueError: it is no edit of text states, or of states of another width.
        """
        if not self.of_states or states.shape[-1] != self.down.shape[1]:
            raise ValueError(
                f"The edit changes {self.weight_name} {self.down.shape[1]} wide ({self.encoder}); got text states "
                f"{states.shape[-1]} wide. Make the edit for this model, with Edit Image Model or Remove Concept."
            )
        return LowRank(self.up, self.down).applied(states, strength) if strength else states

    def factors(self, update: DoorUpdate) -> LowRank:
        """The update of one door as factors of its whole weight."""
        down = self.down
        if update.door.kind == "pooled":
            assert self.pooled is not None
            first, end = update.door.columns or (0, update.door.shape[1])
            down = self.pooled.down.new_zeros(self.pooled.rank, update.door.shape[1])
            down[:, first:end] = self.pooled.down
        return LowRank(update.up, down)

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
        if energy == 1 or not any(part.rank for part in self.parts):
            return self
        if self.of_states:
            raise ValueError(
                f"energy is {energy}; expected 1 for an edit of an image model's doors, whose rank is small already."
            )
        if self.others:
            return WeightEdit.joined([part.truncated(energy) for part in self.parts])
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
            prefix: what stands before the weight's name; by default that of the edit's text encoder. With several text
                encoders, leave it out.
            naming: "kohya" (lora_te_text_model_encoder_layers_0_...), "comfyui" (text_encoders.clip_l....) or
                "diffusers" (text_encoder.text_model...., unet....; what ``load_lora_weights`` takes).

        Raises:
            ValueError: unknown naming.
        """
        if self.of_states:
            return self._doors_lora(naming, dtype)
        if prefix is not None and self.others:
            raise ValueError("The edit changes several text encoders, whose weights have prefixes of their own.")
        # diffusers may take rank and alpha of one module for those of all of them.
        rank = max(1, *(part.rank for part in self.parts))
        found: dict[str, torch.Tensor] = {}
        idle: dict[str, int] = {}
        for part in self.parts:
            encoder = ENCODERS[part.encoder]
            key = encoder.lora_key(part.weight_name, naming, prefix)
            found |= _module(key, LowRank(part.up, part.down), dtype, naming, rank)
            idle |= encoder.idle_modules(part.weight_name, naming, part.up.shape[0], prefix)
        for name, width in idle.items():
            if f"{name}.alpha" not in found:
                nothing = LowRank(self.up.new_zeros(width, 0), self.down.new_zeros(0, width))
                found |= {**_module(name, nothing, dtype, naming), f"{name}.alpha": torch.tensor(float(rank))}
        return found

    def _doors_lora(self, naming: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        family = family_named(self.encoder)
        if not self.doors:
            raise ValueError(
                "The edit has no doors: it was made for text states alone. Apply it to a conditioning, or make it with "
                "Edit Image Model or Remove Concept."
            )
        modules: dict[str, LowRank] = {}
        for update in self.doors:
            factors, rows = self.factors(update), family.lora_place(update.door, naming)
            key = family.lora_name(update.door, naming)
            # Doors of one module, which read the same states, are rows of it.
            up = modules[key].up if key in modules else factors.up.new_zeros(rows.height, factors.rank)
            up[slice(*rows.put)] = factors.up[slice(*rows.taken)]
            modules[key] = LowRank(up, factors.down)
        found: dict[str, torch.Tensor] = {}
        for key, module in modules.items():
            found |= _module(key, module, dtype, naming, self.module_rank(naming))
        return found

    def module_rank(self, naming: str) -> int:
        """The least rank of a module in a LoRA of doors: diffusers' form has no alpha, and diffusers takes the rank of
        one module for that of all."""
        if naming != "diffusers":
            return 1
        return max(1, self.rank, 0 if self.pooled is None else self.pooled.rank)


def lora_parts(naming: str) -> tuple[str, ...]:
    """What the tensors of one module of a LoRA are called: up, down and, where the form has one, alpha."""
    if naming == "diffusers":
        return "lora_B.weight", "lora_A.weight"
    return "lora_up.weight", "lora_down.weight", "alpha"


def _module(
    key: str, factors: LowRank, dtype: torch.dtype, naming: str, least_rank: int = 1
) -> dict[str, torch.Tensor]:
    """The tensors of one module of a LoRA. Loaders divide alpha by the rank, so factors of rank 0 become zeros."""
    rank = max(least_rank, factors.rank)
    up, down = factors.up.new_zeros(factors.up.shape[0], rank), factors.down.new_zeros(rank, factors.down.shape[1])
    up[:, : factors.rank], down[: factors.rank] = factors.up, factors.down
    values = (up.to(dtype), down.to(dtype), torch.tensor(float(rank)))
    return {f"{key}.{part}": value for part, value in zip(lora_parts(naming), values, strict=False)}


def weight_hash(weight: torch.Tensor) -> str:
    """SHA-256 of a weight's values in fp32, row by row; tells whether two files hold the same weight."""
    return hashlib.sha256(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()).hexdigest()
