"""Shapes XL and Shapes DiT as the editor sees them, and with an edit: for the study of both (``gallery.py``)."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from ...families.doors import Family, family_of
from ...quickfix import EditSettings, PromptStates, TextTower, WeightEdit, compute_edit
from ...quickfix.doors import edit_doors
from ...quickfix.encoder.prompt_states import READINGS, Stream
from ...quickfix.encoder.row_states import ROW_READINGS, RowStates, row_tokenizer
from ...quickfix.encoder.t5_tower import T5Tower
from ...quickfix.solver.low_rank import LowRank
from ...text.prompts import PromptTokenizer
from ..architecture import EOS, SHAPES_DIT, SHAPES_XL, Architecture, FluxArchitecture
from ..flux import ShapesDiTPipeline, load_dit_pipeline
from ..pipeline import Conditioning, Painter, ShapesXLPipeline, load_xl_pipeline
from ..t5 import T5Tokenizer
from .gallery_trials import CLIPS, DOORS_KEYS, DOORS_VALUES, STATES_ALONE, WAYS, Trial


@dataclass(frozen=True)
class Opened(ABC):
    """A miniature as the editor sees it; ``pipeline`` is as it was trained, ``states`` reads what its doors read."""

    pipeline: Painter
    family: Family
    states: PromptStates | RowStates

    @abstractmethod
    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        """The pooled vectors (n, width) of prompts."""

    def edit(self, trial: Trial) -> WeightEdit:
        """The trial's edit, of the text states and of what reads them."""
        weights = dict(self.pipeline.denoiser.named_parameters())
        kinds = {DOORS_VALUES: None, DOORS_KEYS: ("key", "value", "pooled"), STATES_ALONE: None}[trial.way]
        return edit_doors(
            self.states.tower(),
            self.states.tokenizer,
            trial.edits(),
            trial.settings(self.family),
            () if trial.way == STATES_ALONE else self.family.select(_shapes(self.pipeline), kinds=kinds),
            lambda door: weights[door.weight],
            read_pooled=self.pooled,
        )

    def edited(self, trial: Trial) -> Painter:
        """A pipeline that carries the trial's edit; this one stays as it is."""
        edit = self.edit(trial)
        return self._with_doors(edit) if edit.doors else EditedConditioning.of(self.pipeline, edit)

    def _with_doors(self, edit: WeightEdit) -> Painter:
        denoiser = copy.deepcopy(self.pipeline.denoiser)
        with torch.no_grad():
            for update in edit.doors:
                factors = edit.factors(update)
                denoiser.get_parameter(update.door.weight).add_(factors.up @ factors.down)
        return self.pipeline.with_denoiser(denoiser)


@dataclass(frozen=True)
class OpenedXL(Opened):
    """Shapes XL."""

    pipeline: ShapesXLPipeline
    states: PromptStates

    @classmethod
    def load(cls, architecture: Architecture = SHAPES_XL) -> OpenedXL:
        """With the weights that an architecture names (FileNotFoundError: they are missing)."""
        pipeline = load_xl_pipeline(architecture)
        family = family_of(_shapes(pipeline))
        towers = zip(architecture.texts.values(), pipeline.clip.text_towers(), READINGS[family.name], strict=True)
        streams = tuple(Stream(TextTower.from_module(model), tower.pad, reading) for tower, model, reading in towers)
        matrix = pipeline.clip.text_towers()[-1].text_projection.weight
        tokenizer = PromptTokenizer(pipeline.tokenizer, pad_token=EOS)
        return cls(pipeline, family, PromptStates(streams, tokenizer, family.name, matrix.detach))

    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        return self.states.pooled(prompts)

    def edited(self, trial: Trial) -> Painter:
        if trial.way == CLIPS:
            return self._with_clips(trial, trial.settings(self.family))
        return super().edited(trial)

    def _with_clips(self, trial: Trial, settings: EditSettings) -> Painter:
        clip = copy.deepcopy(self.pipeline.clip)
        for stream, model in zip(self.states.streams, clip.text_towers(), strict=True):
            tokenizer = PromptTokenizer(self.pipeline.tokenizer, pad_token=stream.pad_token)
            edit = compute_edit(stream.tower, tokenizer, trial.edits(), settings)
            with torch.no_grad():
                getattr(model, "text_model", model).get_parameter(edit.weight_name).add_(edit.delta())
        return dataclasses.replace(self.pipeline, clip=clip)


@dataclass(frozen=True)
class OpenedDiT(Opened):
    """Shapes DiT, whose rows are as long as it was trained on."""

    pipeline: ShapesDiTPipeline
    states: RowStates

    @classmethod
    def load(cls, architecture: FluxArchitecture = SHAPES_DIT) -> OpenedDiT:
        """With the weights that an architecture names (FileNotFoundError: they are missing)."""
        pipeline = load_dit_pipeline(architecture)
        family = family_of(_shapes(pipeline))
        reading = ROW_READINGS[family.name]._replace(least=architecture.length)
        t5 = T5Tower(pipeline.texts.t5.state_dict(), architecture.t5["num_layers"])
        read = T5Tokenizer()
        tokenizer = row_tokenizer(reading, family, {"t5": lambda text: list(read(text)["input_ids"])})
        return cls(pipeline, family, RowStates(t5, tokenizer, family, reading, lambda states, given: states))

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> torch.Tensor:
        return self.pipeline.texts.pooled(prompts)


@dataclass(frozen=True)
class EditedConditioning(Painter):
    """A miniature with an edit applied to what its text encoders give, the empty prompt's too."""

    pipeline: Painter
    edit: WeightEdit

    @classmethod
    def of(cls, pipeline: Painter, edit: WeightEdit) -> EditedConditioning:
        return cls(pipeline.tokenizer, pipeline.autoencoder, pipeline, edit)

    @property
    def denoiser(self) -> torch.nn.Module:
        return cast(torch.nn.Module, self.pipeline.denoiser)

    def with_denoiser(self, denoiser: torch.nn.Module) -> EditedConditioning:
        return dataclasses.replace(self, pipeline=self.pipeline.with_denoiser(denoiser))

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        given, name = self.pipeline.condition(prompts), self.pipeline.pooled_name
        pooled = cast(LowRank, self.edit.pooled).applied(given.added[name], 1.0)
        return Conditioning(self.edit.applied(given.states), {**given.added, name: pooled})

    def denoised(self, latents: torch.Tensor, given: Conditioning, steps: int, guidance: float) -> torch.Tensor:
        return self.pipeline.denoised(latents, given, steps, guidance)


def _shapes(pipeline: Painter) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in pipeline.denoiser.named_parameters()}


@dataclass(frozen=True)
class Studied:
    """A miniature of the study.

    Attributes:
        opened: loads it.
        ways: of editing it.
        guidance: of classifier-free guidance.
    """

    architecture: Architecture | FluxArchitecture
    opened: Callable[[], Opened]
    ways: tuple[str, ...]
    guidance: float


STUDIED = {
    "xl": Studied(SHAPES_XL, OpenedXL.load, WAYS, 5.0),
    "dit": Studied(SHAPES_DIT, OpenedDiT.load, (DOORS_VALUES, STATES_ALONE), 3.0),
}
