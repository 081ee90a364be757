"""Removing a concept from a diffusers pipeline, by the best way that its model has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..quickfix import (
    ConceptEdit,
    WeightEdit,
    common_kind,
    compute_edit,
    edit_doors,
    guarded_by,
    kinds_of,
    require_fit,
    way_of,
)
from .opened import PipelineError, open_pipeline

Progress = Callable[[int, int], None]


def remove_concept(
    pipe: Any,
    concept: str | ConceptEdit | Sequence[ConceptEdit],
    becomes: str | None = None,
    *,
    kind: str = "style",
    way: str = "auto",
    doors: str | None = None,
    preserve: Sequence[str] = (),
    breadth: str = "none",
    clip_skip: int = 0,
    progress: Progress | None = None,
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
        breadth: a list of names to keep, less what names a concept: "none", "short", "broad", or "auto", which is
            what the node Remove Concept takes (:func:`~.quickfix.breadth_rules.default_breadth`). The text encoders
            read all of it first, and once: its Gram matrix is kept in memory, or where
            :func:`~.quickfix.breadth.keep_grams_in` says.
        clip_skip: as the pipeline is called with it.
        progress: called with (captions done, all captions) while such a list is read for the first time.

    Raises:
        PipelineError, DoorError, TowerError: the pipeline cannot be edited.
        WayError: the model does not have the way.
        PromptError, BreadthError: see :func:`compute_edit`.
        ValueError: there is no such list.
    """
    concepts = _concepts(concept, becomes, kind)
    opened = open_pipeline(pipe, clip_skip=clip_skip)
    chosen = way_of(opened.family, common_kind(concepts), "image model" if doors else way)
    settings = chosen.settings.keeping(preserve)
    if not chosen.by_doors:
        tower = opened.text_encoder
        settings = guarded_by(settings, breadth, tower, opened.tokenizer, kinds_of(concepts), opened.encoders).settings
        return compute_edit(tower, opened.tokenizer, concepts, settings, progress=progress)
    edited, reader = opened.doors(doors), opened.states.remembering()
    states = reader.tower()
    return edit_doors(
        states,
        opened.tokenizer,
        concepts,
        guarded_by(settings, breadth, states, opened.tokenizer, kinds_of(concepts), opened.encoders).settings,
        edited,
        opened.read,
        read_pooled=reader.pooled,
        progress=progress,
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
