"""Pictures before and after an edit: how far they move, and what a scorer says. The pipeline stays as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..output.files import whole_file
from ..output.json_records import RecordError, from_json, parse, to_json
from ..pipelines.opened import open_pipeline
from ..pipelines.removal import apply_edit, remove_concept
from ..pipelines.tracing import PipelineTracer
from ..quickfix import PAPER, ConceptEdit, WeightEdit, compute_edit
from .plan import Edited

IN_IMAGE_MODEL = -1
"""The layer of an edit that is none of a text encoder."""


@dataclasses.dataclass(frozen=True)
class Painted:
    """One prompt before and after an edit; means over seeds.

    Attributes:
        prompt: the text.
        names: whether it names a concept that was edited.
        distance: root mean square difference of the final latents.
        before, after: the scorer's numbers of the pictures and the prompt; None without a scorer.
    """

    prompt: str
    names: bool
    distance: float
    before: float | None = None
    after: float | None = None


@dataclasses.dataclass(frozen=True)
class EditResult:
    """What an edit did.

    Attributes:
        experiment: "layers", "single" or "ten".
        title: of the edit, in words.
        layer: that was edited, or :data:`IN_IMAGE_MODEL`.
        published: whether the paper edits all of these concepts.
        score: what the scorer measures; "" without one.
        painted: each prompt.
        key: of all that decides these numbers.
    """

    experiment: str
    title: str
    layer: int
    published: bool
    score: str
    painted: tuple[Painted, ...]
    key: str


class Painter:
    """Paints prompts with one pipeline, and remembers what the unedited one makes of them."""

    def __init__(self, tracer: PipelineTracer, seeds: Sequence[int], identity: dict[str, str]) -> None:
        self.tracer, self.seeds, self.identity = tracer, tuple(seeds), identity
        self._before: dict[tuple[str, int], torch.Tensor] = {}

    @property
    def score(self) -> str:
        return str(getattr(self.tracer.scorer, "name", ""))

    def key(self, one: Edited) -> str:
        """Of all that decides what the edit's pictures are."""
        settings = {name: value for name, value in self.tracer.settings.as_dict().items() if name != "rows"}
        asked = [self.identity, settings, self.seeds, to_json(one), __version__, self.score]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def latents(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """What the pipeline as it is now makes of prompts."""
        return self.tracer.paint(prompts, seed).float().cpu()

    def before(self, prompts: Sequence[str], seed: int) -> torch.Tensor:
        """What the unedited pipeline makes of prompts; to be called while it is unedited."""
        new = [prompt for prompt in dict.fromkeys(prompts) if (prompt, seed) not in self._before]
        if new:
            self._before |= {(prompt, seed): one for prompt, one in zip(new, self.latents(new, seed), strict=True)}
        return torch.stack([self._before[prompt, seed] for prompt in prompts])

    def scores(self, latents: torch.Tensor, prompts: Sequence[str]) -> list[float | None]:
        """One number for each picture with its prompt."""
        scorer, pipe = self.tracer.scorer, self.tracer.pipe
        if scorer is None:
            return [None] * len(prompts)
        rows = [latents[number : number + 1].to(pipe._execution_device) for number in range(len(prompts))]
        return [float(scorer(self.tracer.pictures(row), prompt)) for row, prompt in zip(rows, prompts, strict=True)]

    def measure(self, one: Edited) -> EditResult:
        """Make an edit, paint with it, and take it back."""
        prompts = (*one.captions, *one.others)
        unedited = {seed: self.before(prompts, seed) for seed in self.seeds}
        with edited(self.tracer.pipe, edit_of(self.tracer.pipe, one)):
            changed = {seed: self.latents(prompts, seed) for seed in self.seeds}
        distances = [
            (changed[seed] - unedited[seed]).flatten(1).square().mean(1).sqrt().tolist() for seed in self.seeds
        ]
        before = [self.scores(unedited[seed], prompts) for seed in self.seeds]
        after = [self.scores(changed[seed], prompts) for seed in self.seeds]
        painted = tuple(
            Painted(text, number < len(one.captions), _mean([row[number] for row in distances]) or 0.0, *both)
            for number, text in enumerate(prompts)
            for both in [[_mean([row[number] for row in rows]) for rows in (before, after)]]
        )
        layer, published = IN_IMAGE_MODEL if one.layer is None else one.layer, all(c.published for c in one.concepts)
        return EditResult(one.experiment, one.title, layer, published, self.score, painted, self.key(one))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def edit_of(pipe: Any, one: Edited) -> WeightEdit:
    """The edit, by the paper's settings at a layer of the text encoder, else by this pack's own in the image model."""
    concepts = [ConceptEdit(concept.source, concept.target, concept.kind) for concept in one.concepts]
    if one.layer is None:
        return remove_concept(pipe, concepts, way="image model")
    opened = open_pipeline(pipe)
    return compute_edit(opened.text_encoder, opened.tokenizer, concepts, dataclasses.replace(PAPER, layer=one.layer))


@contextmanager
def edited(pipe: Any, edit: WeightEdit) -> Iterator[None]:
    """The pipeline with an edit in its weights; behind the block they are bit by bit what they were."""
    opened = open_pipeline(pipe)
    if edit.of_states:
        weights = [opened.read(update.door) for update in edit.doors]
    else:
        weights = [opened.text_encoder.weights[edit.weight_name]]
    kept = [weight.clone() for weight in weights]
    try:
        apply_edit(pipe, edit)
        yield
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, kept, strict=True):
                weight.copy_(value)


def measure_edits(
    painter: Painter, edits: Sequence[Edited], folder: Path, progress: Callable[[int, int], None] | None = None
) -> tuple[EditResult, ...]:
    """Measure the edits whose results are not in the folder, each a file of JSON; read the others."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number, one in enumerate(edits):
        if progress is not None:
            progress(number, len(edits))
        key = painter.key(one)
        path = folder / f"{one.experiment}-{key[:16]}.json"
        result = _read(path, key)
        if result is None:
            result = painter.measure(one)
            with whole_file(path, overwrite=True) as part:
                part.write_text(json.dumps(to_json(result), indent=1, ensure_ascii=False), encoding="utf-8")
        found.append(result)
    if progress is not None:
        progress(len(edits), len(edits))
    return tuple(found)


def _read(path: Path, key: str) -> EditResult | None:
    """A result that is there and is that of the key; None where it is to be measured (again)."""
    if not path.is_file():
        return None
    try:
        found = from_json(EditResult, parse(path.read_text(encoding="utf-8")), path.name)
    except (RecordError, UnicodeDecodeError):
        return None
    return found if found.key == key else None
