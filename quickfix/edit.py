"""From concepts to one low-rank update of a text encoder's weight."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch

from ..prompts import PromptError, PromptTokenizer, SubjectError, naming_any
from .everyday import EVERYDAY
from .guard import Guard, build_guard
from .heldout import HELD_OUT_TEMPLATES
from .pairs import TokenPairs, pair_tokens
from .report import EditReport, Guarding, Probe, measure_effect, reached, share_reached
from .request import GUARDED, ConceptEdit, EditSettings
from .solve import LowRank, Statistics, solve_residuals
from .tower import TextTower
from .tuning import LAMBDAS, LambdaCurve, Spectrum, trace_lambda
from .weight_edit import WeightEdit

# Concepts encoded at once; a long list is streamed into sums.
_CONCEPTS = 64
# Concepts of a kind whose generality is measured.
_SAMPLE = 8


@torch.no_grad()
def compute_edit(
    tower: TextTower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings = GUARDED,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> WeightEdit:
    """Compute the edit of some concepts; neither the tower nor any model is changed.

    Args:
        progress: called with (batches done, all batches) of 64 concepts; an exception it raises ends the work.

    Raises:
        PromptError, SubjectError: no concepts, one concept with two targets, a concept cut off at the context length, a
            preserved prompt that names a concept to edit.
        HeldError: the held prompts leave the concepts no room.
        TowerError: no such layer, token ids or weights that cannot be used.
    """
    concepts = tuple(concepts)
    watch = _Stopwatch()
    with watch.stage("tokenize"):
        batches = _paired(tower, tokenizer, concepts, settings)
    with watch.stage("keys"):
        guard = build_guard(tower, tokenizer, concepts, settings)
    pairs = _gather(tower, batches, settings, watch, progress)
    probe, lam = None, settings.lam
    if lam is None:
        with watch.stage("lambda"):
            probe = _probe(tower, tokenizer, concepts, settings.layer)
            lam = _curve(pairs.sums, guard, probe, LAMBDAS).best
            settings = dataclasses.replace(settings, lam=lam)
    with watch.stage("solve"):
        update, efficacy = pairs.solve(lam, guard)
    with watch.stage("report"):
        probe = probe or _probe(tower, tokenizer, concepts, settings.layer)
        report = _measured(tower, tokenizer, concepts, settings, update, efficacy, pairs, guard, probe)
    report = dataclasses.replace(report, milliseconds=watch.milliseconds())
    return WeightEdit(
        tower.out_proj_name(settings.layer), update.up.cpu(), update.down.cpu(), concepts, settings, report
    )


def _measured(
    tower: TextTower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    update: LowRank,
    efficacy: float,
    pairs: _Pairs,
    guard: Guard,
    probe: Probe,
) -> EditReport:
    assert settings.lam is not None
    held = guard.held
    return EditReport(
        efficacy=efficacy,
        **measure_effect(tower, settings.layer, update, probe)._asdict(),
        pairs=len(pairs),
        rank=update.rank,
        relative_norm=float(update.up.norm() / tower.weight(tower.out_proj_name(settings.layer)).norm()),
        nbytes=update.up.nbytes + update.down.nbytes,
        skipped_preserve=guard.skipped,
        generality=_generality(tower, tokenizer, concepts, settings, update),
        condition=pairs.sums.condition(lam=settings.lam, **guard.as_arguments()),
        guarding=None if held is None else Guarding(held.rank, held.share(pairs.sums.gram)),
    )


@torch.no_grad()
def find_lambda(
    tower: TextTower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings = GUARDED,
    lambdas: Sequence[float] = LAMBDAS,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> LambdaCurve:
    """Efficacy against drift on everyday prompts over lambda; the settings' own lambda counts nothing.

    The same lambda is found by :func:`compute_edit` where the settings' lambda is None. For the errors, see there.

    Raises:
        SolveError: lambdas that are not above 0 and in rising order.
    """
    concepts = tuple(concepts)
    watch = _Stopwatch()
    batches = _paired(tower, tokenizer, concepts, settings)
    guard = build_guard(tower, tokenizer, concepts, settings)
    pairs = _gather(tower, batches, settings, watch, progress)
    return _curve(pairs.sums, guard, _probe(tower, tokenizer, concepts, settings.layer), lambdas)


def _curve(sums: Statistics, guard: Guard, probe: Probe, lambdas: Sequence[float]) -> LambdaCurve:
    return trace_lambda(Spectrum(sums, **guard.as_arguments()), probe.drift_grams(), lambdas)


def _probe(tower: TextTower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], layer: int) -> Probe:
    """The everyday prompts that name no concept, as the edited layer sees them."""
    naming = naming_any(EVERYDAY, [concept.source for concept in concepts], tokenizer)
    prompts = [prompt for prompt in EVERYDAY if prompt not in naming]
    return Probe.of(tower, layer, tokenizer.tokenize_all(prompts))


def _generality(
    tower: TextTower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    update: LowRank,
) -> tuple[tuple[str, float], ...]:
    """Efficacy in held-out captions by kind of concept; of many concepts, a sample of :data:`_SAMPLE` for each kind."""
    weight = tower.weight(tower.out_proj_name(settings.layer))
    found = []
    for kind in dict.fromkeys(concept.kind for concept in concepts):
        alike = [concept for concept in concepts if concept.kind == kind]
        sample = alike[:: -(-len(alike) // _SAMPLE)]
        captions = [
            (concept.source, concept.target or "",
             [template for template in HELD_OUT_TEMPLATES[kind] if template not in (concept.templates or ())])
            for concept in sample
        ]  # fmt: skip
        batch = _pairs_that_fit(tokenizer, captions, settings.positions)
        if batch is not None:
            found.append((kind, reached(*_keys_and_residuals(tower, batch, weight, settings), update)))
    return tuple(found)


def _pairs_that_fit(
    tokenizer: PromptTokenizer, captions: Sequence[tuple[str, str, Sequence[str]]], positions: str
) -> TokenPairs | None:
    """The pairs of held-out captions; None where there is no caption, or a concept is too long for them."""
    captions = [caption for caption in captions if caption[2]]
    try:
        return pair_tokens(tokenizer, captions, positions) if captions else None
    except SubjectError:
        return None


@dataclass(frozen=True)
class _Pairs:
    """Pairs ready to solve: few as they are (keys, residuals), many as sums."""

    few: tuple[torch.Tensor, torch.Tensor] | None
    streamed: Statistics | None

    def __len__(self) -> int:
        return self.sums.pairs

    @cached_property
    def sums(self) -> Statistics:
        if self.streamed is not None:
            return self.streamed
        assert self.few is not None
        keys, residuals = self.few
        return Statistics.empty(keys.shape[1], residuals.shape[1], keys.device).add(keys, residuals)

    def solve(self, lam: float, guard: Guard) -> tuple[LowRank, float]:
        """The update and its efficacy."""
        if self.few is None:
            update = self.sums.solve(lam=lam, **guard.as_arguments())
            return update, share_reached(self.sums.energy, self.sums.remaining(update))
        update = solve_residuals(*self.few, lam=lam, **guard.as_arguments())
        return update, reached(*self.few, update)


def _gather(
    tower: TextTower,
    batches: Sequence[TokenPairs],
    settings: EditSettings,
    watch: _Stopwatch,
    progress: Callable[[int, int], None] | None,
) -> _Pairs:
    """Keys and residuals of all pairs; many are streamed into sums."""
    weight = tower.weight(tower.out_proj_name(settings.layer))
    few: list[tuple[torch.Tensor, torch.Tensor]] = []
    sums = None
    if sum(len(batch) for batch in batches) >= weight.shape[1]:
        sums = Statistics.empty(weight.shape[1], weight.shape[0], weight.device)
    for number, batch in enumerate(batches, 1):
        with watch.stage("keys"):
            keys, residuals = _keys_and_residuals(tower, batch, weight, settings)
        with watch.stage("solve"):
            if sums is None:
                few.append((keys, residuals))
            else:
                sums = sums.add(keys, residuals)
        if progress is not None:
            progress(number, len(batches))
    if sums is not None:
        return _Pairs(None, sums)
    keys, residuals = (torch.cat(part) for part in zip(*few, strict=True))
    return _Pairs((keys, residuals), None)


def _keys_and_residuals(
    tower: TextTower, batch: TokenPairs, weight: torch.Tensor, settings: EditSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys k (n, d) and residuals v - W0 k = W0 (k* - k) (n, d_out), exactly 0 where both captions agree."""
    places = torch.cat((batch.source[:, 1], batch.target[:, 1]))
    positions = range(int(places.min()), int(places.max()) + 1)
    inputs = tower.attention_inputs(batch.ids, settings.layer, positions)
    keys, wanted = (
        inputs[where[:, 0].to(inputs.device), where[:, 1].to(inputs.device) - positions.start]
        for where in (batch.source, batch.target)
    )
    residuals = (wanted - keys) @ weight.T
    if settings.published_bias:
        residuals = residuals + tower.weight(tower.out_proj_name(settings.layer).replace(".weight", ".bias"))
    return keys, residuals


def _paired(
    tower: TextTower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], settings: EditSettings
) -> list[TokenPairs]:
    """The token pairs of some concepts in batches; refuses what cannot be edited."""
    tower.require_layer(settings.layer)
    _refuse_conflicts(concepts, tokenizer)
    return [
        pair_tokens(
            tokenizer,
            [(concept.source, concept.target or "", concept.templates or ()) for concept in part],
            settings.positions,
        )
        for part in (concepts[start : start + _CONCEPTS] for start in range(0, len(concepts), _CONCEPTS))
    ]


def _refuse_conflicts(concepts: Sequence[ConceptEdit], tokenizer: PromptTokenizer) -> None:
    if not concepts:
        raise PromptError("No concepts to edit were given; expected at least one.")
    targets: dict[tuple[int, ...], str] = {}
    for concept in concepts:
        source, target = tokenizer.word_ids(concept.source), concept.target or ""
        if source == tokenizer.word_ids(target):
            raise PromptError(f"{concept.source!r} and {target!r} are the same tokens; name a different target.")
        known = targets.setdefault(source, target)
        if known != target:
            raise PromptError(
                f"The concept {concept.source!r} has two targets, {known!r} and {target!r}; keep one of them."
            )


class _Stopwatch:
    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def milliseconds(self) -> tuple[tuple[str, float], ...]:
        return tuple((stage, 1000 * seconds) for stage, seconds in self._seconds.items())
