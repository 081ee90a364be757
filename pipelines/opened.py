"""A diffusers pipeline as the editor sees it: the image model's doors, and the text states that they read.

A pipeline is any object with ``unet``, ``text_encoder`` and ``tokenizer``, and ``text_encoder_2`` and ``tokenizer_2``
where it has two; diffusers itself is never imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..families.doors import Door, DoorError, Family, family_of
from ..quickfix import PromptStates, TextTower
from ..quickfix.encoder.prompt_states import READINGS, Reading, Stream
from ..text.prompts import PromptTokenizer


class PipelineError(ValueError):
    """A pipeline that cannot be edited; the message says why and what to do."""


@dataclass(frozen=True)
class OpenPipeline:
    """What an edit reads of a pipeline; the pipeline stays as it is.

    Attributes:
        family: of the image model.
        weights: its parameters, by diffusers' names.
        states: reads the text states and pooled vectors.
    """

    family: Family
    weights: dict[str, torch.Tensor]
    states: PromptStates

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Cuts the prompts."""
        return self.states.tokenizer

    @property
    def text_encoder(self) -> TextTower:
        """The first text encoder."""
        return self.states.streams[0].tower

    def doors(self, names: str | None = None) -> tuple[Door, ...]:
        """The doors that the family edits by default, or those whose names fit (see :meth:`Family.select`).

        Raises:
            DoorError: nothing fits.
            PipelineError: a door's weight is quantized, or not loaded.
        """
        doors = self.family.select({name: tuple(weight.shape) for name, weight in self.weights.items()}, names=names)
        for door in doors:
            weight = self.read(door)
            if not weight.is_floating_point() or weight.is_meta:
                found = "not in memory (sequential offloading)" if weight.is_meta else f"of type {weight.dtype}"
                raise PipelineError(
                    f"unet.{door.weight} is {found}; expected fp32, fp16 or bf16 numbers. Edit the pipeline before it "
                    "is offloaded or quantized."
                )
        return doors

    def read(self, door: Door) -> torch.Tensor:
        """A door's weight, wherever it lies."""
        return self.weights[door.weight]


def open_pipeline(pipe: Any, *, clip_skip: int = 0) -> OpenPipeline:
    """Read what a pipeline is.

    Args:
        pipe: a StableDiffusionPipeline, StableDiffusionXLPipeline, or an object that holds the same.
        clip_skip: layers at the end of the text encoders that are not read, as the pipeline's own argument says it.

    Raises:
        PipelineError: it lacks something; it holds LoRAs that are not part of its weights.
        DoorError: the image model is of no family whose doors are known.
        TowerError: a text encoder is no CLIP.
    """
    unet = getattr(pipe, "unet", None)
    if not isinstance(unet, nn.Module):
        others = [name for name in ("transformer", "prior") if getattr(pipe, name, None) is not None]
        raise PipelineError(
            f"Found {type(pipe).__name__} with {', '.join(others) or 'no image model'}; expected a pipeline of Stable "
            "Diffusion 1.x, 2.x or SDXL, with unet, text_encoder and tokenizer."
        )
    weights = _plain_weights(unet, "unet")
    family = family_of({name: tuple(weight.shape) for name, weight in weights.items()})
    if family.name not in READINGS:
        raise DoorError(f"The text encoders of {family.title} cannot be read here. Use the node Remove Concept.")
    encoders, tokenizers = _pairs(pipe, family)
    streams = tuple(
        _stream(encoder, tokenizer, reading, clip_skip)
        for encoder, tokenizer, reading in zip(encoders, tokenizers, READINGS[family.name], strict=True)
    )
    tower = streams[0].tower
    prompts = PromptTokenizer(tokenizers[0], pad_token=streams[0].pad_token, context_length=tower.context_length)
    projection = None
    if family.pooled:
        matrix = getattr(getattr(encoders[-1], "text_projection", None), "weight", None)
        if matrix is None:
            raise PipelineError(
                f"The text encoder {type(encoders[-1]).__name__} has no text_projection; expected a "
                f"CLIPTextModelWithProjection, as {family.title} has."
            )
        projection = matrix.detach
    return OpenPipeline(family, weights, PromptStates(streams, prompts, family.name, projection))


def _pairs(pipe: Any, family: Family) -> tuple[list[nn.Module], list[Any]]:
    """The text encoders and their tokenizers."""
    parts = [(getattr(pipe, f"text_encoder{end}", None), getattr(pipe, f"tokenizer{end}", None)) for end in ("", "_2")]
    found = [(encoder, tokenizer) for encoder, tokenizer in parts if encoder is not None and tokenizer is not None]
    wanted = len(READINGS[family.name])
    if len(found) != wanted:
        raise PipelineError(
            f"Found {len(found)} text encoders with tokenizers in {type(pipe).__name__}; expected {wanted}, as "
            f"{family.title} has. Load the pipeline with its text encoders."
        )
    for encoder, _ in found:
        _plain_weights(encoder, "text_encoder")
    return [encoder for encoder, _ in found], [tokenizer for _, tokenizer in found]


def _stream(encoder: nn.Module, tokenizer: Any, reading: Reading, clip_skip: int) -> Stream:
    tower = TextTower.from_module(encoder)
    unread = reading.unread + clip_skip
    if not clip_skip >= 0 or unread >= tower.num_layers:
        raise PipelineError(f"clip_skip is {clip_skip}; the text encoder has {tower.num_layers} layers.")
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    return Stream(tower, int(pad), reading._replace(unread=unread))


def _plain_weights(module: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """The parameters by name, of a module without adapters."""
    weights = {key: parameter.detach() for key, parameter in module.named_parameters()}
    adapted = next((key for key in weights if ".base_layer." in key or ".lora_" in key), None)
    if adapted is not None:
        raise PipelineError(
            f"The pipeline has a LoRA loaded ({name}.{adapted}), which the edit would not see. Make it a part of the "
            "weights first: pipe.fuse_lora(), then pipe.unload_lora_weights(); or edit before it is loaded."
        )
    return weights
