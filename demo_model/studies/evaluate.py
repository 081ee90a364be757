"""Measure Shapes: how well it paints what it is told, and what an edit does to its pictures.

    python -m diff_quickfix.demo_model.studies.evaluate quality --prompts 512
    python -m diff_quickfix.demo_model.studies.evaluate edit --style "van gogh" --preset guarded
    python -m diff_quickfix.demo_model.studies.evaluate reading --model xl --prompts 256
    python -m diff_quickfix.demo_model.studies.evaluate reading --model dit --prompts 256 --guidance 4

The first two read generated pictures with Shapes' own CLIP (``scorer.py``), the last with the independent reader of the
model's world (``reader.py``); prompts are combinations that training never saw.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ...quickfix import ConceptEdit, EditSettings, TextTower, WeightEdit, compute_edit, preset
from ...text.prompts import PromptTokenizer
from .. import architecture as shape
from ..architecture import ARCHITECTURES, Architecture, FluxArchitecture
from ..flux import load_dit_pipeline
from ..pipeline import Painter, ShapesPipeline, load_pipeline, load_xl_pipeline
from ..reader import Reader
from ..scorer import PROBES, ShapesScorer
from ..worlds.captions import caption
from ..worlds.catalog import SHAPES
from ..worlds.world import PLAIN, Scene, held_out, sample_scenes

Reading = dict[str, list[str]]


def read_all(scorer: ShapesScorer, pictures: torch.Tensor) -> Reading:
    return {attribute: scorer.read(pictures, attribute) for attribute in PROBES}


def accuracy(reading: Reading, scenes: Sequence[Scene], attribute: str) -> float:
    """Share of pictures whose attribute reads as the scene says, in percent."""
    right = [read == getattr(scene, attribute) for read, scene in zip(reading[attribute], scenes, strict=True)]
    return 100.0 * float(np.mean(right))


def quality(pipeline: ShapesPipeline, scorer: ShapesScorer, prompts: int, *, seed: int = 1) -> dict[str, float]:
    """Paint held-out prompts and read them back: percent right for each attribute, and the mean CLIPScore.

    Each attribute is read alone, and "in context": among captions that differ in this attribute only.
    """
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(SHAPES, rng, prompts, unseen=True)
    texts = [caption(scene, rng)[0] for scene in scenes]
    pictures = pipeline.paint(texts, range(prompts))
    reading = read_all(scorer, pictures)
    result = {attribute: accuracy(reading, scenes, attribute) for attribute in PROBES}
    for attribute in PROBES:
        known = scorer.read_in_context(pictures, scenes, attribute)
        result[f"{attribute} in context"] = accuracy({attribute: known}, scenes, attribute)
    return {**result, "clip_score": float(scorer.clip_score(pictures, texts).mean()), "prompts": prompts}


def painter_of(architecture: Architecture | FluxArchitecture) -> Painter:
    """A miniature with its shipped weights.

    Raises:
        FileNotFoundError: the weights or a vocabulary are missing.
    """
    if isinstance(architecture, FluxArchitecture):
        return load_dit_pipeline(architecture)
    return load_pipeline(architecture) if architecture.pooled is None else load_xl_pipeline(architecture)


def independent_reading(
    architecture: Architecture | FluxArchitecture,
    prompts: int,
    *,
    seed: int = 1,
    steps: int = 20,
    guidance: float = 5.0,
) -> dict[str, float]:
    """Paint held-out prompts with a miniature and read them by its world's reader: percent right for each attribute."""
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(architecture.world, rng, prompts, unseen=True)
    texts = [caption(scene, rng)[0] for scene in scenes]
    pictures = painter_of(architecture).paint(texts, range(prompts), steps=steps, guidance=guidance)
    reading = Reader(architecture).read(pictures)
    return {attribute: accuracy(reading, scenes, attribute) for attribute in reading}


def edit_prompts(style: str, number: int, *, seed: int = 2) -> list[Scene]:
    """Held-out scenes of one style (or :data:`PLAIN`), one object each."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < number:
        object_, color, background = (
            str(rng.choice(tuple(values))) for values in (SHAPES.objects, SHAPES.colors, SHAPES.backgrounds)
        )
        scene = Scene(object_, color, background, style)
        if held_out(scene):
            scenes.append(scene)
    return scenes


def prompt_of(scene: Scene) -> str:
    """The prompt that an edit is judged on; a plain scene is asked for as "a painting", what edited styles become."""
    text = caption(scene)[0]
    return f"a painting of {text}" if scene.style == PLAIN else text


def shapes_tower(pipeline: ShapesPipeline) -> tuple[TextTower, PromptTokenizer]:
    """The editor's view of Shapes' text encoder."""
    return TextTower.from_module(pipeline.text_encoder), PromptTokenizer(pipeline.tokenizer, pad_token=shape.EOS)


def edit_style(pipeline: ShapesPipeline, style: str, settings: EditSettings) -> WeightEdit:
    """The edit "<style> -> painting" on Shapes' text encoder."""
    tower, tokenizer = shapes_tower(pipeline)
    return compute_edit(tower, tokenizer, [ConceptEdit(style, "painting")], settings)


def with_edit(pipeline: ShapesPipeline, edit: WeightEdit) -> ShapesPipeline:
    """A pipeline whose text encoder carries the edit; the given one stays as it is."""
    text_encoder = copy.deepcopy(pipeline.text_encoder)
    inner = getattr(text_encoder, "text_model", text_encoder)
    with torch.no_grad():
        inner.get_parameter(edit.weight_name).add_(edit.delta())
    return dataclasses.replace(pipeline, text_encoder=text_encoder)


def edit_effect(
    pipeline: ShapesPipeline, scorer: ShapesScorer, edited: ShapesPipeline, style: str, *, prompts: int, steps: int = 20
) -> dict[str, dict[str, float]]:
    """Read the same seeds before and after an edit of ``style``.

    Returns:
        For "before" and "after": percent of the style's own prompts that still read as the style (``edited``), of other
        styles' and plain prompts that read right (``others``), and of object, color and background over all prompts.
    """
    own = edit_prompts(style, prompts)
    rest = [
        s
        for i, other in enumerate([*(s for s in SHAPES.styles if s != style), PLAIN])
        for s in edit_prompts(other, max(1, prompts // 4), seed=3 + i)
    ]
    scenes = own + rest
    texts = [prompt_of(scene) for scene in scenes]
    result = {}
    for name, model in (("before", pipeline), ("after", edited)):
        reading = read_all(scorer, model.paint(texts, range(len(texts)), steps=steps))
        split = {a: (v[: len(own)], v[len(own) :]) for a, v in reading.items()}
        result[name] = {
            "edited": accuracy({"style": split["style"][0]}, own, "style"),
            "others": accuracy({"style": split["style"][1]}, rest, "style"),
            **{a: accuracy(reading, scenes, a) for a in ("object", "color", "background")},
            **{f"{a} of others": accuracy({a: split[a][1]}, rest, a) for a in ("object", "color", "background")},
        }
    return result


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["quality", "edit", "reading"])
    parser.add_argument("--model", choices=ARCHITECTURES, default="shapes", help="of reading (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=512, help="pictures to paint (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="sampling steps of reading (default: %(default)s)")
    parser.add_argument("--guidance", type=float, default=5.0, help="of reading (default: %(default)s)")
    parser.add_argument("--style", default="van gogh", help="the style to edit away (default: %(default)s)")
    parser.add_argument("--preset", default="guarded", choices=["paper", "guarded"])
    parser.add_argument("--layer", type=int, default=0, help="the layer to edit (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.what == "reading":
        chosen, further = ARCHITECTURES[options.model], {"steps": options.steps, "guidance": options.guidance}
        print(json.dumps(independent_reading(chosen, options.prompts, **further), indent=2))
        return
    pipeline, scorer = load_pipeline(), ShapesScorer()
    if options.what == "quality":
        result: Any = quality(pipeline, scorer, options.prompts)
    else:
        settings = dataclasses.replace(preset(options.preset), layer=options.layer)
        edited = with_edit(pipeline, edit_style(pipeline, options.style, settings))
        result = edit_effect(pipeline, scorer, edited, options.style, prompts=options.prompts)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
