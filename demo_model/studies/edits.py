"""What edits do to pictures: many edits of Shapes, read by an independent reader, beside the verdicts on them.

    python -m diff_quickfix.demo_model.studies.edits paint --out build/edits
    python -m diff_quickfix.demo_model.studies.edits judge --out build/edits

``paint`` paints the same prompts and seeds before and after each edit, reads them with ``reader.py`` and appends one
line for each edit to ``readings.jsonl``; lines that are there already are not made again. ``judge`` computes the edits
anew, sets their verdicts beside the readings and prints the tables of ``docs/verdicts-shapes.md``.

Prompts: each value of object, color and style four times in 32 scenes of combinations that training never saw, and
four more for each edited concept. All of them read right in every attribute before the edits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...quickfix import ConceptEdit, EditSettings, WeightEdit, compute_edit, preset
from ..pipeline import ShapesPipeline, load_pipeline
from ..reader import VALUES, Reader
from ..scenes import BACKGROUNDS, COLORS, OBJECTS, PLAIN, STYLES, Scene, caption, held_out, sample_scenes
from .evaluate import prompt_of, shapes_tower, with_edit

STEPS = 10
# Prompts for each value of an edited attribute, and how many more for each edited concept.
EACH, OWN = 4, 4
# Captions for each value that the preserve set "broad" names.
BROAD = 12
KINDS: dict[str, tuple[str, ...]] = {"style": STYLES, "object": OBJECTS, "color": tuple(COLORS)}
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
            (scene,) = sample_scenes(rng, 1)
            text, said = caption(replace(scene, **{self.attribute: value}), rng)
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


TRIALS = tuple(_trials())


def chosen_prompts(pipeline: ShapesPipeline, reader: Reader) -> list[Prompt]:
    """The prompts of the study: some that show each value of an edited attribute :data:`EACH` times, then :data:`OWN`
    for each edited concept, in the order of :data:`TRIALS`."""
    rng = np.random.default_rng(21)
    every = {"style": (*STYLES, PLAIN), "object": OBJECTS, "color": tuple(COLORS)}
    wanted: list[dict[str, str]] = []
    for _ in range(EACH):
        shuffled = [rng.permutation(values).tolist() for values in every.values()]
        wanted += [dict(zip(every, values, strict=True)) for values in zip(*shuffled, strict=True)]
    own = dict.fromkeys((trial.attribute, trial.source) for trial in TRIALS if trial.attribute)
    wanted += [{attribute: value} for attribute, value in own for _ in range(OWN)]
    open_, found = list(range(len(wanted))), {}
    seed = 0
    while open_:
        tried = [Prompt(_drawn(rng, wanted[place]), seed + place) for place in open_]
        seed += len(wanted)
        readings = read_prompts(pipeline, reader, tried)
        for place, prompt, reading in zip(open_, tried, readings, strict=True):
            if all(reading[name] == getattr(prompt.scene, name) for name in VALUES):
                found[place] = prompt
        open_ = [place for place in open_ if place not in found]
    return [found[place] for place in range(len(wanted))]


def _drawn(rng: np.random.Generator, fixed: dict[str, str]) -> Scene:
    """A scene of a combination that training never saw, with some attributes given.

    Where the given ones leave too little choice, it may be a combination of training's.
    """
    every = {"style": (*STYLES, PLAIN), "object": OBJECTS, "color": tuple(COLORS), "background": tuple(BACKGROUNDS)}
    scene = Scene("", "", "")
    for _ in range(64):
        values = {name: str(rng.choice(choices)) for name, choices in every.items()}
        scene = Scene(**(values | fixed))
        if held_out(scene):
            break
    return scene


def read_prompts(pipeline: ShapesPipeline, reader: Reader, prompts: Sequence[Prompt]) -> list[dict[str, str]]:
    """Paint prompts and read each picture: attribute to its value."""
    texts = [prompt_of(prompt.scene) for prompt in prompts]
    read = reader.read(pipeline.paint(texts, [prompt.seed for prompt in prompts], steps=STEPS))
    return [{name: read[name][place] for name in VALUES} for place in range(len(prompts))]


def edit_of(pipeline: ShapesPipeline, trial: Trial) -> WeightEdit:
    """The trial's edit, with its report."""
    tower, tokenizer = shapes_tower(pipeline)
    return compute_edit(tower, tokenizer, [trial.concept()], trial.settings())


def shown(trial: Trial, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts that a trial is read on: those of all values, and its own concept's."""
    return [
        prompt
        for place, prompt in enumerate(prompts)
        if place < len(prompts) - OWN * _concepts()
        or (trial.attribute and getattr(prompt.scene, trial.attribute) == trial.source)
    ]


def _concepts() -> int:
    return len({(trial.attribute, trial.source) for trial in TRIALS if trial.attribute})


def paint_all(out: Path, part: int = 0, parts: int = 1) -> None:
    """Read every trial's pictures; what ``out`` holds already is not made again."""
    out.mkdir(parents=True, exist_ok=True)
    pipeline, reader = load_pipeline(), Reader()
    kept = out / "prompts.json"
    if kept.exists():
        prompts = [Prompt(Scene(**entry["scene"]), entry["seed"]) for entry in json.loads(kept.read_text())]
    else:
        prompts = chosen_prompts(pipeline, reader)
        kept.write_text(json.dumps([{"scene": vars(prompt.scene), "seed": prompt.seed} for prompt in prompts]))
    done = {line["trial"] for line in readings(out)}
    for trial in TRIALS[part::parts]:
        if trial.name in done:
            continue
        own = shown(trial, prompts)
        read = read_prompts(with_edit(pipeline, edit_of(pipeline, trial)), reader, own)
        line = {"trial": trial.name, "scenes": [vars(prompt.scene) for prompt in own], "read": read}
        with (out / f"readings-{part}.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(trial.name, flush=True)


def readings(out: Path) -> list[dict[str, Any]]:
    """The lines of all parts."""
    return [json.loads(line) for path in sorted(out.glob("readings-*.jsonl")) for line in path.read_text().splitlines()]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="edits", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["paint", "judge"])
    parser.add_argument("--out", type=Path, default=Path("build/edits"), help="folder of the readings")
    parser.add_argument("--part", type=int, default=0, help="which share of the edits to paint, from 0")
    parser.add_argument("--parts", type=int, default=1, help="how many shares there are")
    options = parser.parse_args(arguments)
    if options.what == "paint":
        paint_all(options.out, options.part, options.parts)


if __name__ == "__main__":
    main()
