"""What edits do to pictures: many edits of Shapes, read by an independent reader, beside the verdicts on them.

    python -m diff_quickfix.demo_model.studies.edits paint --out build/edits
    python -m diff_quickfix.demo_model.studies.edits judge --out build/edits

``paint`` paints the same prompts and seeds before and after each edit, one file of pictures for each; files that are
there already are not made again. ``judge`` reads them with ``reader.py``, computes the edits anew, sets their verdicts
beside the readings and prints the tables of ``docs/verdicts-shapes.md``.

Prompts: each value of object, color and style four times in 32 scenes of combinations that training never saw, and
four more for each edited concept. All of them read right in every attribute before the edits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...output.files import whole_file
from ...quickfix import ConceptEdit, EditSettings, WeightEdit, compute_edit, preset
from ..pipeline import ShapesPipeline, load_pipeline
from ..reader import Reader
from ..worlds.captions import caption
from ..worlds.catalog import SHAPES
from ..worlds.world import Scene, held_out, sample_scenes
from .edit_table import Outcome, outcome, table, tally
from .evaluate import prompt_of, shapes_tower, with_edit

STEPS = 10
_PROMPTS = "prompts.json"
# Prompts for each value of an edited attribute, and how many more for each edited concept.
EACH, OWN = 4, 4
# Captions for each value that the preserve set "broad" names.
BROAD = 12
KINDS: dict[str, tuple[str, ...]] = {
    "style": tuple(SHAPES.styles),
    "object": tuple(SHAPES.objects),
    "color": tuple(SHAPES.colors),
}
"""What is edited: attribute to its values."""
NAMING = ("as it is", "unnamed", "half", "broad")
"""What a preserve set says of the neighbours, the other values of the edited attribute: as the preset has it; none of
them; every second one; all of them, in a dozen captions each."""


@dataclass(frozen=True)
class Prompt:
    """A scene and a seed whose picture reads right before any edit."""

    scene: Scene
    seed: int


@dataclass(frozen=True)
class Trial:
    """One edit of the study.

    Attributes:
        attribute: of :data:`KINDS`, whose value is edited; "" for a concept that no picture of the study shows.
        source, target: of the concept.
        preset: of the settings.
        naming: of :data:`NAMING`.
        lam: lambda, where it is not the preset's.
        positions: where they are not the preset's.
    """

    attribute: str
    source: str
    target: str
    preset: str = "guarded"
    naming: str = "as it is"
    lam: float | None = None
    positions: str | None = None

    @property
    def name(self) -> str:
        parts = [f"{self.source} -> {self.target}", self.preset, self.naming]
        parts += [f"lambda {self.lam:g}"] if self.lam is not None else []
        return ", ".join([*parts, *([self.positions] if self.positions else [])])

    def concept(self) -> ConceptEdit:
        return ConceptEdit(self.source, self.target, "style" if self.attribute == "style" else "object")

    def settings(self) -> EditSettings:
        """The preset's settings with the preserve set that ``naming`` asks for."""
        base = preset(self.preset)
        changed = replace(base, lam=base.lam if self.lam is None else self.lam)
        if self.positions is not None:
            changed = replace(changed, positions=self.positions)
        others = self.neighbours()
        if self.naming in ("unnamed", "half"):
            dropped = others if self.naming == "unnamed" else others[::2]
            kept = [prompt for prompt in base.preserve if not any(value in prompt for value in dropped)]
            return replace(changed, preserve=tuple(kept))
        if self.naming == "broad":
            return changed.keeping([text for value in others for text in self._captions(value)])
        return changed

    def neighbours(self) -> tuple[str, ...]:
        """The other values of the edited attribute."""
        return tuple(value for value in KINDS.get(self.attribute, ()) if value != self.source)

    def _captions(self, value: str) -> list[str]:
        """Captions of training's scenes that name a value and not the concept."""
        rng = np.random.default_rng(11)
        found: list[str] = []
        while len(found) < BROAD:
            (scene,) = sample_scenes(SHAPES, rng, 1)
            text, said = caption(replace(scene, **cast(dict[str, Any], {self.attribute: value})), rng)
            if self.attribute in said and self.source not in text:
                found.append(text)
        return found


def _trials() -> Iterator[Trial]:
    """Settings by settings, so that a study that is cut short has seen all kinds."""
    concepts = {
        "style": [("van gogh", "painting"), ("bridget riley", "painting"), ("yayoi kusama", "painting")],
        "object": [("star", "circle"), ("heart", "square"), ("ring", "cross")],
        "color": [("red", "blue"), ("green", "yellow"), ("purple", "white")],
    }
    variants: list[dict[str, Any]] = [
        {},
        {"naming": "unnamed"},
        {"preset": "paper"},
        {"naming": "broad"},
        {"lam": 1000.0},
        {"naming": "half"},
        {"preset": "auto"},
        {"positions": "last subject token"},
        {"lam": 10.0, "naming": "unnamed"},
        {"preset": "paper", "lam": 10.0},
        {"lam": 0.001},
        {"lam": 30.0, "naming": "broad"},
    ]
    controls = [
        Trial("", "two", "three"),
        Trial("", "left", "right"),
        Trial("style", "georges seurat", "painting", lam=1e6),
    ]
    for number, variant in enumerate(variants):
        for shift, (attribute, pairs) in enumerate(concepts.items()):
            yield Trial(attribute, *pairs[(number + shift) % len(pairs)], **variant)
        if number % 3 == 1 and controls:
            yield controls.pop(0)
    # What the README compares: the same concept with its neighbours named and not named.
    yield Trial("style", "van gogh", "painting", naming="unnamed")
    yield Trial("object", "star", "circle")
    yield Trial("object", "star", "circle", naming="unnamed")
    yield Trial("color", "red", "blue")
    yield Trial("style", "van gogh", "painting", "paper")


TRIALS = tuple(_trials())


def chosen_prompts(pipeline: ShapesPipeline, reader: Reader) -> list[Prompt]:
    """The prompts of the study: some that show each value of an edited attribute :data:`EACH` times, then :data:`OWN`
    for each edited concept, in the order of :data:`TRIALS`."""
    rng = np.random.default_rng(21)
    every = {name: SHAPES.values[name] for name in KINDS}
    wanted: list[dict[str, str]] = []
    for _ in range(EACH):
        shuffled = [rng.permutation(values).tolist() for values in every.values()]
        wanted += [dict(zip(every, values, strict=True)) for values in zip(*shuffled, strict=True)]
    wanted += [{attribute: value} for attribute, value in _edited() for _ in range(OWN)]
    open_, found = list(range(len(wanted))), {}
    seed = 0
    while open_:
        tried = [Prompt(_drawn(rng, wanted[place]), seed + place) for place in open_]
        seed += len(wanted)
        reading = reader.read(paint_prompts(pipeline, tried))
        for i, (place, prompt) in enumerate(zip(open_, tried, strict=True)):
            if all(reading[name][i] == getattr(prompt.scene, name) for name in SHAPES.values):
                found[place] = prompt
        open_ = [place for place in open_ if place not in found]
    return [found[place] for place in range(len(wanted))]


def _drawn(rng: np.random.Generator, fixed: dict[str, str]) -> Scene:
    """A scene of a combination that training never saw, with some attributes given.

    Where the given ones leave too little choice, it may be a combination of training's.
    """
    every = {name: SHAPES.values[name] for name in (*KINDS, "background")}
    scene = Scene("", "", "")
    for _ in range(64):
        values = {name: str(rng.choice(choices)) for name, choices in every.items()}
        scene = Scene(**cast(dict[str, Any], values | fixed))
        if held_out(scene):
            break
    return scene


def paint_prompts(pipeline: ShapesPipeline, prompts: Sequence[Prompt]) -> torch.Tensor:
    """Pictures (n, 3, 128, 128) in [0, 1]."""
    texts = [prompt_of(prompt.scene) for prompt in prompts]
    return pipeline.paint(texts, [prompt.seed for prompt in prompts], steps=STEPS)


def edit_of(pipeline: ShapesPipeline, trial: Trial) -> WeightEdit:
    """The trial's edit, with its report."""
    tower, tokenizer = shapes_tower(pipeline)
    return compute_edit(tower, tokenizer, [trial.concept()], trial.settings())


def shown(trial: Trial, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that a trial is read on: those of all values, and its own concept's."""
    shared = len(prompts) - OWN * len(_edited())
    own = [prompt for prompt in prompts[shared:] if trial.attribute and _shows(trial, prompt.scene)]
    return [*prompts[:shared], *own]


def _edited() -> tuple[tuple[str, str], ...]:
    """The attributes and values that trials edit away, each once."""
    return tuple(dict.fromkeys((trial.attribute, trial.source) for trial in TRIALS if trial.attribute))


def _shows(trial: Trial, scene: Scene) -> bool:
    return getattr(scene, trial.attribute) == trial.source


def study_prompts(out: Path) -> list[Prompt]:
    """The prompts that :func:`paint_all` chose."""
    return [Prompt(Scene(**entry["scene"]), entry["seed"]) for entry in json.loads((out / _PROMPTS).read_text())]


def paint_all(out: Path, part: int = 0, parts: int = 1) -> None:
    """Paint every trial's pictures, and those before any edit; what ``out`` holds already is not made again."""
    out.mkdir(parents=True, exist_ok=True)
    pipeline = load_pipeline()
    if not (out / _PROMPTS).exists():
        chosen = chosen_prompts(pipeline, Reader())
        text = json.dumps([{"scene": vars(prompt.scene), "seed": prompt.seed} for prompt in chosen])
        (out / _PROMPTS).write_text(text)
    prompts = study_prompts(out)
    for number, trial in [(-1, None), *enumerate(TRIALS)][part::parts]:
        path = pictures_path(out, number)
        if not path.exists():
            edited = pipeline if trial is None else with_edit(pipeline, edit_of(pipeline, trial))
            pictures = paint_prompts(edited, prompts if trial is None else shown(trial, prompts))
            with whole_file(path) as part_path, part_path.open("wb") as file:
                np.save(file, (pictures * 255).round().byte().numpy())
            print("before any edit" if trial is None else trial.name, flush=True)


def pictures_path(out: Path, number: int) -> Path:
    """Where the pictures of a trial lie, by its place in :data:`TRIALS`; -1 for those before any edit."""
    return out / ("before.npy" if number < 0 else f"{number:02}.npy")


def judged(out: Path) -> Iterator[Outcome]:
    """What became of every trial whose pictures lie in ``out``."""
    pipeline, reader, prompts = load_pipeline(), Reader(), study_prompts(out)
    before = read_pictures(reader, pictures_path(out, -1))
    for number, trial in enumerate(TRIALS):
        path = pictures_path(out, number)
        if path.exists():
            own = shown(trial, prompts)
            places = [prompts.index(prompt) for prompt in own]
            seen = {name: [before[name][place] for place in places] for name in SHAPES.values}
            after = read_pictures(reader, path)
            scenes = [vars(prompt.scene) for prompt in own]
            report = edit_of(pipeline, trial).report
            yield outcome(trial.name, (trial.attribute, trial.source), scenes, (seen, after), report)


def read_pictures(reader: Reader, path: Path) -> dict[str, list[str]]:
    """What some painted pictures read as."""
    return reader.read(torch.from_numpy(np.load(path)).float() / 255)


def judge_all(out: Path) -> None:
    """Print what became of every trial, half by half: thresholds were chosen on the first half."""
    prompts, before = study_prompts(out), read_pictures(Reader(), pictures_path(out, -1))
    for name in SHAPES.values:
        right = [getattr(prompt.scene, name) == read for prompt, read in zip(prompts, before[name], strict=True)]
        print(f"before any edit, {name}: {sum(right)} of {len(right)} read right")
    outcomes = list(judged(out))
    for half in (0, 1):
        print(f"\n{'Thresholds were chosen on these' if half == 0 else 'Thresholds were tested on these'}:\n")
        print(*table(outcomes[half::2]), tally(outcomes[half::2]), sep="\n")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="edits", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["paint", "judge"])
    parser.add_argument("--out", type=Path, default=Path("build/edits"), help="folder of the readings")
    parser.add_argument("--part", type=int, default=0, help="which share of the edits to paint, from 0")
    parser.add_argument("--parts", type=int, default=1, help="how many shares there are")
    options = parser.parse_args(arguments)
    if options.what == "paint":
        paint_all(options.out, options.part, options.parts)
    else:
        judge_all(options.out)


if __name__ == "__main__":
    main()
