"""From concepts to one low-rank update of a text encoder's weight."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..prompts import PromptError, PromptTokenizer, holds_words
from .everyday import EVERYDAY, PRESERVED
from .pairs import TokenPairs, pair_tokens
from .report import EditReport, measure_effect
from .request import GUARDED, ConceptEdit, EditSettings
from .solve import LowRank, Statistics, solve_residuals
from .tower import TextTower
from .weight_edit import WeightEdit, weight_hash

# Concepts encoded at once; a long list is streamed into sums.
_CONCEPTS = 64


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
        TowerError: no such layer, token ids or weights that cannot be used.
    """
    concepts = tuple(concepts)
    tower.require_layer(settings.layer)
    watch = _Stopwatch()
    with watch.stage("tokenize"):
        _refuse_conflicts(concepts, tokenizer)
        preserve, skipped = _preserved_prompts(concepts, settings, tokenizer)
        batches = [
            pair_tokens(
                tokenizer,
                [(concept.source, concept.target or "", concept.templates or ()) for concept in part],
                settings.positions,
            )
            for part in (concepts[start : start + _CONCEPTS] for start in range(0, len(concepts), _CONCEPTS))
        ]
    name = tower.out_proj_name(settings.layer)
    with watch.stage("keys"):
        kept = _preserved_keys(tower, tokenizer, preserve, settings)
    pairs = sum(len(batch) for batch in batches)
    update, efficacy = _solve_batches(tower, batches, kept, settings, watch, progress)
    with watch.stage("report"):
        weight = tower.weight(name)
        naming = _naming(EVERYDAY, concepts, tokenizer)
        prompts = [prompt for prompt in EVERYDAY if prompt not in naming]
        effect = measure_effect(tower, settings.layer, update, tokenizer.tokenize_all(prompts))
        relative_norm = float(update.up.norm() / weight.norm())
    report = EditReport(
        efficacy=efficacy,
        **effect._asdict(),
        pairs=pairs,
        rank=update.rank,
        relative_norm=relative_norm,
        nbytes=update.up.nbytes + update.down.nbytes,
        milliseconds=watch.milliseconds(),
        skipped_preserve=skipped,
    )
    return WeightEdit(
        name, update.up.cpu(), update.down.cpu(), concepts, settings, report,
        encoder=tower.encoder, base=weight_hash(weight),
    )  # fmt: skip


def _solve_batches(
    tower: TextTower,
    batches: Sequence[TokenPairs],
    kept: torch.Tensor | None,
    settings: EditSettings,
    watch: _Stopwatch,
    progress: Callable[[int, int], None] | None,
) -> tuple[LowRank, float]:
    """The update and its efficacy. Few pairs are solved as they are; many are streamed into sums."""
    weight = tower.weight(tower.out_proj_name(settings.layer))
    regularization: dict[str, Any] = {
        "lam": settings.lam, "preserve": kept, "preserve_weight": settings.preserve_weight,
    }  # fmt: skip
    pairs = sum(len(batch) for batch in batches)
    few: list[tuple[torch.Tensor, torch.Tensor]] = []
    sums = None
    for number, batch in enumerate(batches, 1):
        with watch.stage("keys"):
            keys, residuals = _keys_and_residuals(tower, batch, weight, settings)
        with watch.stage("solve"):
            if pairs < weight.shape[1]:
                few.append((keys, residuals))
            else:
                sums = sums or Statistics.empty(weight.shape[1], weight.shape[0], weight.device)
                sums = sums.add(keys, residuals)
        if progress is not None:
            progress(number, len(batches))
    with watch.stage("solve"):
        if sums is not None:
            update = sums.solve(**regularization)
            energy, left = sums.energy, sums.remaining(update)
        else:
            keys, residuals = (torch.cat(part) for part in zip(*few, strict=True))
            update = solve_residuals(keys, residuals, **regularization)
            energy = float(residuals.double().square().sum())
            left = float((residuals - keys @ update.down.T @ update.up.T).double().square().sum())
    return update, 1.0 if energy == 0 else min(1.0, max(0.0, 1.0 - (left / energy) ** 0.5))


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


def _preserved_keys(
    tower: TextTower, tokenizer: PromptTokenizer, prompts: Sequence[str], settings: EditSettings
) -> torch.Tensor | None:
    """Keys (m, d) of every position of the preserved prompts, each distinct one once.

    Padding is preserved too. Stable Diffusion reads it, and a padding key carries what its prompt says: the concept's
    own padding has attended to the concept, a preserved prompt's has not, so keeping the one leaves the other free.
    """
    if not prompts or not settings.preserve_weight:
        return None
    ids = [prompt.ids for prompt in tokenizer.tokenize_all(list(prompts))]
    # The tower is causal: equal beginnings give equal keys (BOS is the same in all prompts).
    first = {row[: place + 1]: (number, place) for number, row in enumerate(ids) for place in range(len(row))}
    rows, places = zip(*first.values(), strict=True)
    return tower.attention_inputs(ids, settings.layer)[list(rows), list(places)]


def _preserved_prompts(
    concepts: Sequence[ConceptEdit], settings: EditSettings, tokenizer: PromptTokenizer
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The prompts to preserve, and the built-in ones left out because they name a concept."""
    naming = _naming(settings.preserve, concepts, tokenizer)
    for prompt in settings.preserve:
        if prompt in naming and prompt not in PRESERVED:
            raise PromptError(
                f"The prompt {prompt!r} cannot be preserved: it names a concept that is edited. Take it off the list."
            )
    kept, skipped = ([p for p in settings.preserve if (p in naming) == out] for out in (False, True))
    return tuple(kept), tuple(skipped)


def _naming(prompts: Sequence[str], concepts: Sequence[ConceptEdit], tokenizer: PromptTokenizer) -> set[str]:
    """Those prompts that name the source of any of some concepts."""
    sources = {tokenizer.word_ids(concept.source) for concept in concepts}
    tokenized = tokenizer.tokenize_all(prompts)
    return {prompt.text for prompt in tokenized if any(holds_words(prompt, source) for source in sources)}


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
