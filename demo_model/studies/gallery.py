"""What edits of Shapes XL or Shapes DiT do to neighbours that nobody named, read by their world's independent reader.

    python -m diff_quickfix.demo_model.studies.gallery paint --model xl --out build/gallery
    python -m diff_quickfix.demo_model.studies.gallery judge --model xl --out build/gallery

``paint`` paints the same prompts and seeds before and after each edit, one file of pictures for each; files that are
there already are not made again, and several processes may share the work (``--part``). ``judge`` reads them and prints
the tables of ``docs/gallery.md``.

Prompts: :data:`OWN` held-out scenes of each edited concept, and of every value of its kind :data:`OTHERS` in all. The
values of a kind are divided into two halves. A preserve set names none of them, all, or one half: what it did not name
is judged apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ...output.files import whole_file
from ...quickfix import EditReport
from ..reader import Reader
from ..training.precision import HalfDenoiser
from ..worlds.catalog import GALLERY
from ..worlds.world import PLAIN, Scene, held_out
from .edit_table import Share, wrong_about
from .evaluate import prompt_of
from .gallery_edits import STUDIED, Studied
from .gallery_trials import CLIPS, KINDS, TRIALS, Trial, trials_of

STEPS, BATCH = 10, 64
OWN, OTHERS = 60, 120


@dataclass(frozen=True)
class Prompt:
    """A scene and a seed, and the attribute for whose sake it is among the prompts.

    Attributes:
        own: whether it is one of an edited concept's own.
    """

    scene: Scene
    seed: int
    kind: str
    own: bool


def study_prompts() -> list[Prompt]:
    """All prompts: held-out scenes, the same wherever they are drawn."""
    rng = np.random.default_rng(31)
    sources = dict.fromkeys((trial.kind, source) for trial in TRIALS for source in trial.sources)
    wanted = [(kind, source, True) for kind, source in sources for _ in range(OWN)]
    for kind, values in KINDS.items():
        wanted += [(kind, values[place % len(values)], False) for place in range(OTHERS)]
    return [Prompt(_drawn(rng, kind, value), seed, kind, own) for seed, (kind, value, own) in enumerate(wanted)]


def _drawn(rng: np.random.Generator, kind: str, value: str) -> Scene:
    """A scene of a combination that training never saw; a quarter is plain where no style is asked for."""
    while True:
        chosen = {name: str(rng.choice(values)) for name, values in GALLERY.values.items() if name != "style"}
        style = PLAIN if rng.random() < 0.25 else str(rng.choice(tuple(GALLERY.styles)))
        scene = Scene(**cast(dict[str, Any], {**chosen, "style": style, kind: value}))
        if held_out(scene):
            return scene


def shown(trial: Trial, prompts: Sequence[Prompt]) -> list[int]:
    """Places of the prompts that a trial is painted on: its concepts' own, and those of all values of its kind."""

    def fits(prompt: Prompt) -> bool:
        value = getattr(prompt.scene, trial.kind)
        return prompt.kind == trial.kind and (value in trial.sources) == prompt.own

    return [place for place, prompt in enumerate(prompts) if fits(prompt)]


def paint_all(model: Studied, out: Path, part: int = 0, parts: int = 1, *, half: bool = False) -> None:
    """Paint every trial's pictures, and those before any edit; what ``out`` holds already is not made again.

    Args:
        part, parts: which share of the trials, from 0, and how many shares there are.
        half: whether the denoiser computes in bfloat16, which takes half the time on some processors.
    """
    out.mkdir(parents=True, exist_ok=True)
    opened, prompts = model.opened(), study_prompts()
    for number, trial in [(-1, None), *enumerate(trials_of(model.ways))][part::parts]:
        path = pictures_path(out, number)
        if path.exists():
            continue
        painter = opened.pipeline if trial is None else opened.edited(trial)
        if half:
            painter = painter.with_denoiser(HalfDenoiser(painter.denoiser))
        own = prompts if trial is None else [prompts[place] for place in shown(trial, prompts)]
        pictures = painter.paint(
            [prompt_of(prompt.scene) for prompt in own],
            [prompt.seed for prompt in own],
            steps=STEPS,
            guidance=model.guidance,
            batch=BATCH,
        )
        with whole_file(path) as part_path, part_path.open("wb") as file:
            np.save(file, (pictures * 255).round().byte().numpy())
        print("before any edit" if trial is None else trial.name, flush=True)


def pictures_path(out: Path, number: int) -> Path:
    """Where the pictures of a trial lie, by its place among the model's; -1 for those before any edit."""
    return out / ("before.npy" if number < 0 else f"{number:02}.npy")


@dataclass(frozen=True)
class Outcome:
    """What an edit did to pictures that read right before it.

    Attributes:
        left: the concept's own that still read as it.
        named, unnamed: those of its kind's other values that no longer read right, with the preserve set or the list of
            names holding them, and without.
        rest: in the attribute that suffers most of those that were not edited, all pictures that lost it.
        report: of the edit; None where it is of several text encoders.
    """

    name: str
    left: Share
    named: Share
    unnamed: Share
    rest: Share
    report: EditReport | None

    def row(self) -> str:
        shares = (self.left, self.named, self.unnamed, self.rest)
        cells = [self.name, *(share.text() if share.of else "" for share in shares)]
        if self.report is None:
            return "| " + " | ".join([*cells, "", "", ""]) + " |"
        reached = "" if self.report.efficacy is None else f"{self.report.efficacy:.0%}"
        return "| " + " | ".join([*cells, reached, self.word, self.wrong()]) + " |"

    @property
    def word(self) -> str:
        """Of the verdict; empty without a report."""
        return "" if self.report is None else self.report.verdict.split(":")[0]

    def wrong(self) -> str:
        """What is wrong about the verdict; empty where nothing is, and without one."""
        others = Share(self.named.count + self.unnamed.count, self.named.of + self.unnamed.of)
        harmed = max(others, self.rest, key=lambda share: share.percent)
        return wrong_about(self.word, harmed, self.left) if self.word else ""


def outcome(
    trial: Trial, scenes: Sequence[Scene], before: Reading, after: Reading, report: EditReport | None
) -> Outcome:
    """What reading a trial's pictures before and after it says."""
    kind, named = trial.kind, trial.guarded()

    def lost(attribute: str, places: Sequence[int]) -> Share:
        right = [place for place in places if before[attribute][place] == getattr(scenes[place], attribute)]
        return Share(sum(after[attribute][place] != before[attribute][place] for place in right), len(right))

    values = [getattr(scene, kind) for scene in scenes]
    own = [place for place, value in enumerate(values) if value in trial.sources]
    others = [place for place, value in enumerate(values) if value not in trial.sources]
    gone = lost(kind, own)
    return Outcome(
        trial.name,
        Share(gone.of - gone.count, gone.of),
        lost(kind, [place for place in others if values[place] in named]),
        lost(kind, [place for place in others if values[place] not in named]),
        max((lost(name, range(len(scenes))) for name in GALLERY.values if name != kind), key=lambda one: one.percent),
        report,
    )


Reading = dict[str, list[str]]


def judge_all(model: Studied, out: Path) -> None:
    """Print the table of the trials whose pictures are there, how the pictures read before any edit, and how many of
    the verdicts are wrong."""
    reader, prompts, opened = Reader(model.architecture), study_prompts(), model.opened()
    outcomes = []
    before = _read(reader, pictures_path(out, -1))
    for name in GALLERY.values:
        right = [getattr(prompt.scene, name) == read for prompt, read in zip(prompts, before[name], strict=True)]
        print(f"before any edit, {name}: {Share(sum(right), len(right)).text()} % read right")
    print("\n| edit | left | named lost | unnamed lost | another attribute lost | efficacy | verdict | wrong |")
    print("|" + "---|" * 8)
    for number, trial in enumerate(trials_of(model.ways)):
        if pictures_path(out, number).exists():
            places = shown(trial, prompts)
            seen = {name: [values[place] for place in places] for name, values in before.items()}
            after = _read(reader, pictures_path(out, number))
            report = None if trial.way == CLIPS else opened.edit(trial).report
            outcomes.append(outcome(trial, [prompts[place].scene for place in places], seen, after, report))
            print(outcomes[-1].row(), flush=True)
    told = [one for one in outcomes if one.word]
    share = Share(sum(bool(one.wrong()) for one in told), len(told))
    print(f"\n{share.count} of {share.of} verdicts are wrong, {share.text()} %")


def _read(reader: Reader, path: Path) -> Reading:
    return reader.read(torch.from_numpy(np.load(path)).float() / 255)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="gallery", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["paint", "judge"])
    parser.add_argument("--model", choices=list(STUDIED), default="xl", help="which miniature (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/gallery"), help="folder of the pictures")
    parser.add_argument("--part", type=int, default=0, help="which share of the edits to paint, from 0")
    parser.add_argument("--parts", type=int, default=1, help="how many shares there are")
    parser.add_argument("--half", action="store_true", help="paint in bfloat16")
    options = parser.parse_args(arguments)
    if options.what == "paint":
        paint_all(STUDIED[options.model], options.out, options.part, options.parts, half=options.half)
    else:
        judge_all(STUDIED[options.model], options.out)


if __name__ == "__main__":
    main()
