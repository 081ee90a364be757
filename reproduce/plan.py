"""Which experiments a model gets, at which size, and how many pictures that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..families.heads import kind_of
from ..pipelines.opened import open_pipeline
from ..pipelines.tracing import PipelineTracer
from .prompts import Concept, Prompts

CONTROLS = 2
_COLUMNS = 7
# In quick form: sites of each kind in an image model.
_SITES = 6
TEXT_KINDS, UNET_KINDS = ("self_attn", "mlp"), ("self_attn", "cross_attn", "feed_forward", "resnet")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        quick: some layers and sites in place of all.
        prompts: for each attribute.
        seeds: of the initial noise.
        captions: of each concept that is edited, and as many others.
        concepts: how many are edited one by one.
    """

    quick: bool
    prompts: int
    seeds: tuple[int, ...]
    captions: int
    concepts: int


FULL, QUICK = Size(False, 24, (0, 1), 8, 8), Size(True, 8, (0,), 6, 4)


@dataclass(frozen=True)
class Traced:
    """A trace over the prompts of one attribute.

    Attributes:
        attribute: what is traced.
        component: "text" or "image".
        prompts: each with its subject in [brackets].
        sites: patterns of sites.
        pictures: how many are painted, at most.
    """

    attribute: str
    component: str
    prompts: tuple[str, ...]
    sites: str
    pictures: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.component}-{self.attribute}"


@dataclass(frozen=True)
class Edited:
    """An edit, and what is painted with it.

    Attributes:
        experiment: "layers", "single" or "ten".
        concepts: that are edited.
        layer: self-attention layer of the text encoder; None: the image model, where text enters it.
        captions: prompts that name the concepts.
        others: prompts that name none of them.
    """

    experiment: str
    concepts: tuple[Concept, ...]
    layer: int | None
    captions: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def title(self) -> str:
        """In words."""
        if self.experiment == "layers":
            return f"layer {self.layer}"
        named = ", ".join(f"{one.source} -> {one.target}" for one in self.concepts)
        return named if len(self.concepts) == 1 else f"{len(self.concepts)} at once: {named}"


@dataclass(frozen=True)
class Experiments:
    """What is done, and what is not.

    Attributes:
        traced, edited: what is done.
        skipped: what is not, and why.
        pictures: how many are painted, about.
    """

    traced: tuple[Traced, ...]
    edited: tuple[Edited, ...]
    skipped: tuple[str, ...]
    pictures: int


def experiments_for(
    tracers: Mapping[str, PipelineTracer], prompts: Prompts, size: Size, attributes: Sequence[str]
) -> Experiments:
    """The experiments of a model.

    Args:
        tracers: of the components "text" and "image".
        attributes: which are traced; those that there are no prompts for are skipped, and named.
    """
    skipped = [
        f"Traces of the attribute {name}: the model's own world has none." * (name not in prompts.attributes)
        for name in attributes
    ]
    traced = []
    for component, tracer in tracers.items():
        patterns, cells = _sites(tracer, component, size)
        rows = 1 + tracer.settings.corruption.draws * (1 + CONTROLS + cells)
        for name in (name for name in attributes if name in prompts.attributes):
            some = prompts.attributes[name][: size.prompts]
            traced.append(Traced(name, component, some, patterns, rows * len(some) * len(size.seeds)))
    edited, why = _edits(tracers["text"].pipe, prompts, size)
    painted = {text for one in edited for text in (*one.captions, *one.others)}
    runs = len(painted) + sum(len(one.captions) + len(one.others) for one in edited)
    pictures = sum(one.pictures for one in traced) + runs * len(size.seeds)
    return Experiments(tuple(traced), edited, tuple(text for text in (*skipped, *why) if text), pictures)


def _sites(tracer: PipelineTracer, component: str, size: Size) -> tuple[str, int]:
    """Patterns of the sites to trace, and how many cells they make, at most."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for site in tracer.sites:
        wanted = TEXT_KINDS if component == "text" else UNET_KINDS
        if site.kind in wanted or (component == "image" and site.component != "unet"):
            kinds.setdefault((site.encoder, kind_of(site.name)), []).append(site.name)
    chosen = [name for names in kinds.values() for name in _some(names, component, size.quick)]
    return " ".join(chosen), len(chosen) * (_COLUMNS if component == "text" else 1)


def _some(names: Sequence[str], component: str, quick: bool) -> list[str]:
    if not quick:
        return list(names)
    if component == "text":
        return [names[number] for number in few_layers(len(names))]
    step = max(1, math.ceil(len(names) / _SITES))
    return list(names[::step])


def few_layers(count: int) -> list[int]:
    """The first two of some layers, the middle one and the last."""
    return sorted({0, min(1, count - 1), count // 2, count - 1})


def _edits(pipe: Any, prompts: Prompts, size: Size) -> tuple[tuple[Edited, ...], list[str]]:
    try:
        opened = open_pipeline(pipe)
    except ValueError as error:
        return (), [f"All edits: {error}"]
    others = prompts.others[: size.captions]
    whole = opened.family.name in ("sd1", "sd2")
    layer, found, skipped = 0 if whole else None, [], []
    first, *_ = prompts.concepts
    if whole:
        layers = opened.text_encoder.num_layers
        for number in few_layers(layers) if size.quick else range(layers):
            found.append(Edited("layers", (first,), number, first.captions[: size.captions], others))
    else:
        skipped.append(
            f"The edit at each layer of the text encoder: {opened.family.title} reads several text encoders, or one "
            "that is no CLIP, of which no single layer decides. Its concepts are edited in the image model, where text "
            "enters it, which is not the paper's edit."
        )
    for concept in prompts.concepts[: size.concepts]:
        found.append(Edited("single", (concept,), layer, concept.captions[: size.captions], others))
    ten = prompts.concepts[:10]
    found.append(Edited("ten", ten, layer, tuple(one.captions[0] for one in ten), others))
    return tuple(found), skipped


def traced_settings(one: Traced, common: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of its sweep, beside those that all share."""
    return {**common, "component": one.component, "sites": one.sites, "controls": CONTROLS}
