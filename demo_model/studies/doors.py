"""What edits of Shapes' doors do to its pictures, beside edits of its text encoder, read by the independent reader.

    python -m diff_quickfix.demo_model.studies.doors --out build/edits

The prompts, their seeds and the pictures before any edit are those of ``edits.py`` (``paint`` makes them). Each edit
takes about a minute; what ``out`` holds of the table already is not painted again. ``docs/doors-shapes.md`` has it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...output.files import whole_file
from ...quickfix import (
    DOORS,
    FINAL_CAPTIONS,
    POSITIONS,
    ConceptEdit,
    EditSettings,
    StateTower,
    TokenTable,
    compute_edit,
    state_scale,
)
from ..architecture import CONTEXT_LENGTH, EOS, VOCABULARY
from ..pipeline import ShapesPipeline, load_pipeline
from ..reader import Reader
from ..worlds.catalog import SHAPES
from .edit_table import Outcome, outcome
from .edits import Prompt, Trial, paint_prompts, pictures_path, read_pictures, shown, study_prompts
from .evaluate import shapes_tower

# Captions of many contexts, as prompts of Shapes have them.
CONTEXTS = (
    "{x}",
    "A photo of {x}",
    "a painting with a {x}",
    "the {x} on sand, on the left",
    "{x} at night",
    "a yellow {x} in the sky",
    "two things, one is {x} on grass",
    "a big {x} on stone, at the top",
    "{x} in the style of piet mondrian",
    "a small {x} at the bottom",
)


@dataclass(frozen=True)
class DoorTrial:
    """One edit of the values of all cross-attentions.

    Attributes:
        base: concept, and what the preserve set says of its neighbours.
        positions: of :data:`POSITIONS`.
        contexts: whether the edit is computed from :data:`CONTEXTS`, and not from the published captions.
        hold: whether the empty prompt is held, and not softly preserved.
        lam: lambda.
    """

    base: Trial
    positions: str
    contexts: bool = False
    hold: bool = False
    lam: float = 1e-3

    @property
    def name(self) -> str:
        parts = [f"{self.base.source} -> {self.base.target}", self.base.naming, self.positions]
        parts += ["many contexts"] if self.contexts else []
        parts += ["empty prompt held"] if self.hold else []
        return ", ".join([*parts, *([f"lambda {self.lam:g}"] if self.lam != DOORS.lam else [])])

    def concept(self) -> ConceptEdit:
        concept = self.base.concept()
        return dataclasses.replace(concept, templates=CONTEXTS) if self.contexts else concept

    def settings(self) -> EditSettings:
        preserve, hold = self.base.settings().preserve, ("",) if self.hold else ()
        return dataclasses.replace(DOORS, positions=self.positions, preserve=preserve, hold=hold, lam=self.lam)


def _trials() -> Iterator[DoorTrial]:
    concepts = [("style", "van gogh", "painting"), ("object", "star", "circle"), ("color", "red", "blue")]
    last, padded, later = POSITIONS
    for positions in (last, later, padded):
        for naming in ("unnamed", "as it is"):
            for concept in concepts:
                yield DoorTrial(Trial(*concept, naming=naming), positions)
    for concept in concepts[1:]:
        for positions in (later, padded):
            yield DoorTrial(Trial(*concept), positions, contexts=True)
    others = [("style", "bridget riley", "painting"), ("style", "yayoi kusama", "painting")]
    for naming in ("unnamed", "as it is"):
        yield from (DoorTrial(Trial(*concept, naming=naming), last) for concept in others)
    others = [("object", "heart", "square"), ("object", "ring", "cross")]
    others += [("color", "green", "yellow"), ("color", "purple", "white")]
    yield from (DoorTrial(Trial(*concept), later) for concept in others)
    for concept in concepts:
        yield DoorTrial(Trial(*concept), padded, hold=True)
        yield DoorTrial(Trial(*concept), padded, lam=1e-2)


TRIALS = tuple(_trials())


def states_tower(pipeline: ShapesPipeline) -> StateTower:
    """The text states that Shapes' UNet reads."""

    @torch.no_grad()
    def read(ids: Sequence[Sequence[int]]) -> torch.Tensor:
        return pipeline.text_encoder(torch.tensor(ids)).last_hidden_state

    _, tokenizer = shapes_tower(pipeline)
    captions = tokenizer.tokenize_all([caption for caption in FINAL_CAPTIONS if caption])
    places = torch.arange(CONTEXT_LENGTH)
    counted = (places > 0) & (places <= torch.tensor([caption.eos for caption in captions])[:, None])
    states = read([caption.ids for caption in captions])
    width = states.shape[-1]
    embeddings: Any = pipeline.text_encoder.get_input_embeddings().weight
    table = TokenTable(VOCABULARY, lambda ids: embeddings[ids].detach().float())
    return StateTower(read, EOS, width, CONTEXT_LENGTH, state_scale(states, counted, [width]), table, "sd1")


def judged(pipeline: ShapesPipeline, reader: Reader, out: Path, trial: DoorTrial) -> Outcome:
    """Paint and read one trial."""
    _, tokenizer = shapes_tower(pipeline)
    edit = compute_edit(states_tower(pipeline), tokenizer, [trial.concept()], trial.settings())
    unet = copy.deepcopy(pipeline.unet)
    with torch.no_grad():
        for name, module in unet.named_modules():
            if name.endswith("attn2.to_v"):
                module.weight.add_(module.weight @ edit.delta())
    prompts = study_prompts(out)
    own: list[Prompt] = shown(trial.base, prompts)
    before = read_pictures(reader, pictures_path(out, -1))
    seen = {name: [before[name][prompts.index(prompt)] for prompt in own] for name in SHAPES.values}
    after = reader.read(paint_prompts(dataclasses.replace(pipeline, unet=unet), own))
    edited = (trial.base.attribute, trial.base.source)
    doors = sum(name.endswith("attn2.to_v") for name, _ in unet.named_modules())
    report = dataclasses.replace(edit.report, doors=doors)
    return outcome(trial.name, edited, [vars(prompt.scene) for prompt in own], (seen, after), report)


def row(one: Outcome) -> str:
    """A line of the table."""
    report = one.report
    found = report.neighbours
    cells = (
        one.name,
        one.left.text(),
        one.harm.text(),
        "" if report.efficacy is None else f"{report.efficacy:.0%}",
        f"{report.drift:.1%}",
        "" if found is None else f"{found.lost} of {found.names}",
        str(report.rank),
        one.word,
    )
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="doors", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/edits"), help="folder of edits.py's pictures")
    options = parser.parse_args(arguments)
    path = options.out / "doors.md"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pipeline, reader = load_pipeline(), Reader()
    for trial in TRIALS:
        if not any(line.startswith(f"| {trial.name} |") for line in lines):
            lines.append(row(judged(pipeline, reader, options.out, trial)))
            with whole_file(path, overwrite=True) as part:
                part.write_text("\n".join(lines) + "\n", encoding="utf-8")
            print(lines[-1], flush=True)


if __name__ == "__main__":
    main()
