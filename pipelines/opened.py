"""A diffusers pipeline as the editor sees it: the image model's doors, and the text states that they read.

A pipeline is any object with ``unet`` or ``transformer``, and ``text_encoder`` and ``tokenizer``, ``text_encoder_2``
and ``tokenizer_2`` and so on, as many as it has; diffusers itself is never imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..families.doors import Door, DoorError, Family, family_of
from ..quickfix import JoinedStates, PromptStates, RowStates, TextTower, device_of_most
from ..quickfix.encoder.decoder_tower import DecoderTower
from ..quickfix.encoder.fronts.opened import ClipPart, open_states, require_text, require_width
from ..quickfix.encoder.layers import encoder_starts
from ..quickfix.encoder.named_weights import WeightsBelow
from ..quickfix.encoder.prompt_states import READINGS, Reading, Stream
from ..quickfix.encoder.row_states import ROW_READINGS, RowReading, reading_of, row_tokenizer
from ..quickfix.encoder.t5_tower import T5Tower
from ..text.other_tokenizers import Tokenize
from ..text.prompts import PromptTokenizer

_ENDS = ("", "_2", "_3")
_IMAGE_MODELS = ("unet", "transformer")


class PipelineError(ValueError):
    """A pipeline that cannot be edited; the message says why and what to do."""


@dataclass(frozen=True)
class OpenPipeline:
    """What an edit reads of a pipeline; the pipeline stays as it is.

    Attributes:
        family: of the image model.
        part: what the pipeline calls the image model, "unet" or "transformer".
        weights: its parameters, by diffusers' names.
        states: reads the text states and pooled vectors.
        width: of the states that the doors read.
        encoders: the text encoders.
    """

    family: Family
    part: str
    weights: dict[str, torch.Tensor]
    states: PromptStates | RowStates | JoinedStates
    width: int
    encoders: tuple[nn.Module, ...]

    @property
    def tokenizer(self) -> PromptTokenizer:
        """Cuts the prompts."""
        return self.states.tokenizer

    @property
    def text_encoder(self) -> TextTower:
        """The first text encoder, of a family whose text encoders are all CLIPs."""
        assert isinstance(self.states, PromptStates)
        return self.states.streams[0].tower

    def doors(self, names: str | None = None) -> tuple[Door, ...]:
        """The doors that the family edits by default, or those whose names fit (see :meth:`Family.select`).

        Raises:
            DoorError: nothing fits; a door reads states of another width than the text encoders'.
            PipelineError: a door's weight is quantized, or not loaded.
        """
        doors = self.family.select(_shapes(self.weights), names=names)
        for door in doors:
            _require_numbers(self.read(door), f"{self.part}.{door.weight}")
        require_width(doors, self.width)
        return doors

    def read(self, door: Door) -> torch.Tensor:
        """A door's weight, wherever it lies."""
        return self.weights[door.weight]


def open_pipeline(pipe: Any, *, clip_skip: int = 0) -> OpenPipeline:
    """Read what a pipeline is.

    Args:
        pipe: a StableDiffusionPipeline, StableDiffusionXLPipeline, StableDiffusion3Pipeline, FluxPipeline,
            ZImagePipeline, QwenImagePipeline, ChromaPipeline, Krea2Pipeline, a pipeline of PixArt, or an object that
            holds the same.
        clip_skip: layers at the end of CLIP text encoders that are not read, as the pipeline's own argument says it.

    Raises:
        PipelineError: it lacks something; it holds LoRAs that are not part of its weights.
        DoorError: the image model is of no family whose doors are known; its text encoders do not belong to it.
        TowerError: a text encoder is none that can be read.
    """
    part = next((name for name in _IMAGE_MODELS if isinstance(getattr(pipe, name, None), nn.Module)), None)
    if part is None:
        others = [name for name in (*_IMAGE_MODELS, "prior") if getattr(pipe, name, None) is not None]
        raise PipelineError(
            f"Found {type(pipe).__name__} with {', '.join(others) or 'no image model'}; expected a pipeline with unet "
            "or transformer, and its text encoders and tokenizers."
        )
    weights = _plain_weights(getattr(pipe, part), part)
    family = family_of(_shapes(weights))
    if family.name in ROW_READINGS:
        return _with_rows(pipe, part, weights, family, clip_skip)
    if family.name not in READINGS:
        raise DoorError(f"The text encoders of {family.title} cannot be read here. Use the node Remove Concept.")
    parts = _parts(pipe, family, len(READINGS[family.name]))
    encoders, tokenizers = zip(*parts, strict=True)
    streams = tuple(
        _stream(encoder, tokenizer, reading, clip_skip)
        for (encoder, tokenizer), reading in zip(parts, READINGS[family.name], strict=True)
    )
    tower = streams[0].tower
    prompts = PromptTokenizer(tokenizers[0], pad_token=streams[0].pad_token, context_length=tower.context_length)
    projection = None
    if family.pooled:
        matrix = _projection(encoders[-1], family)
        projection = matrix.detach
    states = PromptStates(streams, prompts, family.name, projection)
    return OpenPipeline(family, part, weights, states, states.width, tuple(encoders))


def _with_rows(pipe: Any, part: str, weights: dict[str, torch.Tensor], family: Family, clip_skip: int) -> OpenPipeline:
    """A pipeline whose image model reads another text encoder than CLIP."""
    if clip_skip:
        raise PipelineError(f"clip_skip is {clip_skip}; an edit of {family.title} reads CLIP whole. Leave it at 0.")
    reading = reading_of(family, diffusers=True)
    if reading.beside:
        raise PipelineError(f"Pipelines of {family.title} are not read here. Use the node Remove Concept.")
    several = family.layout == "behind"
    parts = _parts(pipe, family, 3 if several else 2 if reading.pooled else 1)
    *clips, (encoder, tokenizer) = parts
    text = _text_tower(encoder, reading, family)
    found = [_clip_part(*one, family, projected=several) for one in clips]
    behind = found[0].tokenizer if several else None
    rows = row_tokenizer(reading, family, {reading.kind: _tokenize(tokenizer, reading, family)}, behind)
    width = require_text(family, _shapes(weights), text)
    states = open_states(family, reading, text, rows, weights, found)
    chosen = getattr(pipe, "text_encoder_select_layers", None)
    if isinstance(states, RowStates) and chosen is not None and list(chosen) != [depth for depth, _ in states.depths]:
        raise PipelineError(
            f"The pipeline reads the layers {', '.join(map(str, chosen))} of its text encoder; expected "
            f"{', '.join(str(depth) for depth, _ in states.depths)}, as {family.title} does."
        )
    return OpenPipeline(family, part, weights, states, width, tuple(one for one, _ in parts))


def _text_tower(encoder: nn.Module, reading: RowReading, family: Family) -> DecoderTower | T5Tower:
    weights = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    starts = encoder_starts(weights, reading.kind)
    if len(starts) != 1:
        raise PipelineError(
            f"The last text encoder is a {type(encoder).__name__}; expected {reading.title}, as {family.title} has."
        )
    own = WeightsBelow(weights, starts[0])
    for name, weight in own.items():
        _require_numbers(weight, f"{type(encoder).__name__}.{starts[0]}{name}")
    settings: Any = encoder.config
    config, device = settings.to_dict(), device_of_most(own.values())
    return (
        T5Tower.of(own, config, device) if reading.kind == "t5" else DecoderTower.of(own, config, reading.theta, device)
    )


def _clip_part(encoder: nn.Module, tokenizer: Any, family: Family, *, projected: bool) -> ClipPart:
    tower, pad = TextTower.from_module(encoder), _pad_of(tokenizer)
    prompts = PromptTokenizer(tokenizer, pad_token=pad, context_length=tower.context_length)
    return ClipPart(tower, pad, prompts, _projection(encoder, family).detach if projected else None)


def _tokenize(tokenizer: Any, reading: RowReading, family: Family) -> Tokenize:
    """A pipeline's tokenizer as a function.

    Raises:
        PipelineError: its chat template is another than the family's.
    """
    if family.name == "z-image":
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        if said != reading.template.replace("{}", "x"):
            raise PipelineError(
                f"The tokenizer's chat template makes {said!r} of 'x'; expected {reading.template!r}, as "
                f"{family.title} has. Load the pipeline with its own tokenizer."
            )
    return lambda text: list(tokenizer(text)["input_ids"])


def _parts(pipe: Any, family: Family, wanted: int) -> list[tuple[nn.Module, Any]]:
    """The text encoders, each with its tokenizer."""
    parts = [(getattr(pipe, f"text_encoder{end}", None), getattr(pipe, f"tokenizer{end}", None)) for end in _ENDS]
    found = [(encoder, tokenizer) for encoder, tokenizer in parts if encoder is not None and tokenizer is not None]
    if len(found) != wanted:
        raise PipelineError(
            f"Found {len(found)} text encoders with tokenizers in {type(pipe).__name__}; expected {wanted}, as "
            f"{family.title} has. Load the pipeline with its text encoders."
        )
    for encoder, _ in found:
        _plain_weights(encoder, "text_encoder")
    return found


def _projection(encoder: nn.Module, family: Family) -> torch.Tensor:
    matrix = getattr(getattr(encoder, "text_projection", None), "weight", None)
    if matrix is None:
        raise PipelineError(
            f"The text encoder {type(encoder).__name__} has no text_projection; expected a "
            f"CLIPTextModelWithProjection, as {family.title} has."
        )
    assert isinstance(matrix, torch.Tensor)
    return matrix


def _stream(encoder: nn.Module, tokenizer: Any, reading: Reading, clip_skip: int) -> Stream:
    tower = TextTower.from_module(encoder)
    unread = reading.unread + clip_skip
    if not clip_skip >= 0 or unread >= tower.num_layers:
        raise PipelineError(f"clip_skip is {clip_skip}; the text encoder has {tower.num_layers} layers.")
    return Stream(tower, _pad_of(tokenizer), reading._replace(unread=unread))


def _pad_of(tokenizer: Any) -> int:
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def _shapes(weights: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def _require_numbers(weight: torch.Tensor, name: str) -> None:
    if not weight.is_floating_point() or weight.is_meta:
        found = "not in memory (sequential offloading)" if weight.is_meta else f"of type {weight.dtype}"
        raise PipelineError(
            f"{name} is {found}; expected fp32, fp16 or bf16 numbers. Edit the pipeline before it is offloaded or "
            "quantized."
        )


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
