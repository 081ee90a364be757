"""Removing a concept from a diffusers pipeline, by the best way that its model has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..quickfix import ConceptEdit, WeightEdit, common_kind, compute_edit, edit_doors, require_fit, way_of
from .opened import PipelineError, open_pipeline


def remove_concept(
    pipe: Any,
    concept: str | ConceptEdit | Sequence[ConceptEdit],
    becomes: str | None = None,
    *,
    kind: str = "style",
    way: str = "auto",
    doors: str | None = None,
    preserve: Sequence[str] = (),
    clip_skip: int = 0,
) -> WeightEdit:
    """Compute the edit that takes a concept away; the pipeline is not changed.

    ::

        edit = remove_concept(pipe, "van gogh", "painting")
        pipe.load_lora_weights(edit.lora(naming="diffusers"))  # or apply_edit(pipe, edit)

    diffusers loads no LoRA of PixArt; :func:`apply_edit` adds such an edit to the weights.

    Args:
        pipe: a pipeline of Stable Diffusion 1.x, 2.x, SDXL, Stable Diffusion 3, Flux.1, Chroma, Z-Image, Qwen-Image,
            Krea 2 or PixArt (see :func:`open_pipeline`), without LoRAs loaded.
        concept: what to remove, or concepts, which bring their own targets and kinds.
        becomes: what it becomes; None takes the kind's default.
        kind: "style", "object", "fact" or "custom".
        way: "auto", "image model" or "text encoder" (:func:`~.quickfix.ways.way_of`).
        doors: shell patterns of the linear maps to edit, such as ``"*attn2.to_v"``; only for the image model.
        preserve: prompts that must keep their meaning, beside the built-in ones.
        clip_skip: as the pipeline is called with it.

    Raises:
        PipelineError, DoorError, TowerError: the pipeline cannot be edited.
        WayError: the model does not have the way.
        PromptError: see :func:`compute_edit`.
    """
    concepts = _concepts(concept, becomes, kind)
    opened = open_pipeline(pipe, clip_skip=clip_skip)
    chosen = way_of(opened.family, common_kind(concepts), "image model" if doors else way)
    settings = chosen.settings.keeping(preserve)
    if not chosen.by_doors:
        return compute_edit(opened.text_encoder, opened.tokenizer, concepts, settings)
    states, edited = opened.states.remembering(), opened.doors(doors)
    return edit_doors(
        states.tower(), opened.tokenizer, concepts, settings, edited, opened.read, read_pooled=states.pooled
    )


@torch.no_grad()
def apply_edit(pipe: Any, edit: WeightEdit, strength: float = 1.0) -> None:
    """Add an edit to the weights of the pipeline that it was computed from; with the strength less one, take it away.

    Args:
        strength: how much of it.

    Raises:
        PipelineError, DoorError, TowerError: the pipeline cannot be edited, or the edit is another model's.
    """
    opened = open_pipeline(pipe)
    if not edit.of_states:
        require_fit(opened.text_encoder, edit)
        weight = opened.text_encoder.weights[edit.weight_name]
        weight.copy_(weight.float() + edit.delta(strength).to(weight.device))
        return
    if edit.encoder != opened.family.name:
        raise PipelineError(f"The edit is one of {edit.encoder}; this pipeline is {opened.family.title}.")
    every = opened.family.doors({name: tuple(weight.shape) for name, weight in opened.weights.items()})
    shapes = {door.name: door.shape for door in every}
    for update in edit.doors:
        if shapes.get(update.door.name) != update.door.shape:
            raise PipelineError(
                f"The edit changes {update.door.name}, {update.door.shape[0]} x {update.door.shape[1]}, which this "
                "pipeline does not have in this shape. It was made for another model."
            )
    for update in edit.doors:
        weight, factors = opened.read(update.door), edit.factors(update)
        added = ((factors.up * strength) @ factors.down).to(weight.device)
        weight.copy_(weight.float() + added)


def _concepts(
    concept: str | ConceptEdit | Sequence[ConceptEdit], becomes: str | None, kind: str
) -> tuple[ConceptEdit, ...]:
    if isinstance(concept, str):
        return (ConceptEdit(concept, becomes, kind),)
    return (concept,) if isinstance(concept, ConceptEdit) else tuple(concept)
