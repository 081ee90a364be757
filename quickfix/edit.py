"""From concepts to one low-rank update of a text encoder's weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from ..text.prompts import PromptError, PromptTokenizer
from ..text.subjects import SubjectError, naming_any
from .concepts.built_in import EVERYDAY, HELD_OUT_TEMPLATES
from .concepts.concept import ConceptEdit
from .concepts.conflicts import refuse_conflicts
from .concepts.names import NO_BREADTH
from .concepts.pairs import ALIGNED, TokenPairs, pair_tokens
from .concepts.settings import GUARDED, EditSettings
from .encoder.towers import Tower, TowerError
from .guard import Guard, build_guard
from .measure.contested import near_preserved
from .measure.effect import Probe, measure_effect
from .measure.familiarity import measure_familiarity
from .measure.known import known_concepts, tell_unknown
from .measure.neighbours import measure_neighbours
from .measure.report import EditReport
from .measure.stopwatch import Stopwatch
from .measure.verdict import Chosen, Guarding
from .measure.weight_edit import WeightEdit, weight_hash
from .solver.closed_form import Statistics
from .solver.low_rank import LowRank, reached
from .solver.spectrum import LAMBDAS, LambdaCurve, Spectrum, trace_lambda
from .stream import GatheredPairs, edited_layer, encode_pairs, gather_pairs

# The share of an update of whole captions that is left out.
_ENOUGH = 1e-4
# Concepts of a kind whose generality is measured.
_SAMPLE = 8


@torch.no_grad()
def compute_edit(
    tower: Tower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings = GUARDED,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> WeightEdit:
    """Compute the edit of some concepts; neither the tower nor any model is changed.

    Args:
        progress: called with (batches done, all batches) of 64 concepts; before that, where a list of names is encoded
            for the first time, with (captions done, all captions). An exception it raises ends the work.

    Raises:
        PromptError, SubjectError: no concepts, one concept with two targets, a concept cut off at the context length, a
            preserved prompt that names a concept to edit; no such list of names.
        HeldError: the held prompts leave the concepts no room.
        BreadthError: a list of names cannot guard an edit of this encoder.
        TowerError: no such layer, token ids or weights that cannot be used.
    """
    concepts = tuple(concepts)
    tower.require_layer(settings.layer)
    watch = Stopwatch()
    with watch.stage("tokenize"):
        refuse_conflicts(concepts, tokenizer)
    with watch.stage("keys"):
        guard = build_guard(tower, tokenizer, concepts, settings, progress)
    pairs = gather_pairs(tower, tokenizer, concepts, settings, watch, progress)
    return edit_of_pairs(tower, tokenizer, concepts, settings, pairs, guard, watch)


@torch.no_grad()
def edit_of_pairs(
    tower: Tower,
    tokenizer: PromptTokenizer,
    concepts: tuple[ConceptEdit, ...],
    settings: EditSettings,
    pairs: GatheredPairs,
    guard: Guard,
    watch: Stopwatch,
) -> WeightEdit:
    """The edit of some concepts whose pairs are gathered: lambda where it is to be found, solve, report."""
    probe, lam = None, settings.lam
    if lam is None:
        with watch.stage("lambda"):
            probe = everyday_probe(tower, tokenizer, concepts, settings.layer)
            lam = lambda_curve(pairs.sums, guard, probe).best
            settings = dataclasses.replace(settings, lam=lam)
    with watch.stage("solve"):
        update = pairs.solve(lam, guard)
        if settings.positions == ALIGNED and update.rank:
            # Of whole captions nearly all states say nearly the same: their update is of far lower rank than they are.
            update = update.truncated(_ENOUGH)
    with watch.stage("report"):
        probe = probe or everyday_probe(tower, tokenizer, concepts, settings.layer)
        report = _measured(tower, tokenizer, concepts, settings, update, pairs, guard, probe)
    report = dataclasses.replace(report, milliseconds=watch.milliseconds())
    name = tower.out_proj_name(settings.layer)
    stored = tower.in_weight(update)
    return WeightEdit(
        name,
        stored.up,
        stored.down,
        concepts,
        settings,
        report,
        encoder=tower.encoder,
        base="" if tower.identity else weight_hash(tower.weight(name)),
    )


def _measured(
    tower: Tower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    update: LowRank,
    pairs: GatheredPairs,
    guard: Guard,
    probe: Probe,
) -> EditReport:
    """The report of an update, for pairs, guard and probe at hand."""
    assert settings.lam is not None
    held = guard.held
    unknown = tell_unknown(tower, tokenizer, concepts, pairs.agree)
    known = concepts if unknown is None else known_concepts(tower, tokenizer, concepts) if unknown.known else ()
    effect = measure_effect(tower, settings.layer, update, probe)
    neighbours = measure_neighbours(tower, tokenizer, known, settings.layer, update)
    hits = [name for name, _ in (*effect.worst_hit, *(neighbours.worst if neighbours else ()))]
    return EditReport(
        efficacy=pairs.efficacy(update) if known else None,
        **effect._asdict(),
        pairs=len(pairs),
        rank=update.rank,
        relative_norm=float(update.up.norm()) / _norm_of(tower, settings.layer),
        nbytes=update.up.nbytes + update.down.nbytes,
        skipped_preserve=guard.skipped,
        generality=_generality(tower, tokenizer, known, settings, update),
        contested=near_preserved(tower, tokenizer, concepts, settings),
        condition=pairs.condition(settings.lam, guard),
        guarding=None if held is None else Guarding(held.rank, pairs.held_share(held)),
        breadth=guard.breadth,
        neighbours=neighbours,
        unknown=unknown,
        chosen=Chosen.of(settings, hits),
        encoder="" if tower.identity else tower.encoder,
        familiarity=measure_familiarity(tower, tokenizer, known) if tower.identity else (),
    )


def _norm_of(tower: Tower, layer: int) -> float:
    """The Frobenius norm of the edited weight."""
    return tower.width**0.5 if tower.identity else float(tower.weight(tower.out_proj_name(layer)).norm())


@torch.no_grad()
def measure_edit(tower: Tower, tokenizer: PromptTokenizer, edit: WeightEdit, strength: float = 1.0) -> EditReport:
    """The report of an edit on a model's text encoder, be it the one that the edit was computed from or another.

    Raises:
        TowerError: the edit does not fit the text encoder.
    """
    require_fit(tower, edit)
    settings = edit.settings
    # The names that guarded the edit may be of another version, and encoding them takes long: what is kept of them is
    # in the edit already.
    unguarded = dataclasses.replace(settings, breadth=NO_BREADTH, selectivity=0.0)
    report = _measured(
        tower,
        tokenizer,
        edit.concepts,
        settings,
        tower.in_keys(LowRank(edit.up * strength, edit.down)),
        gather_pairs(tower, tokenizer, edit.concepts, settings, Stopwatch()),
        build_guard(tower, tokenizer, edit.concepts, unguarded),
        everyday_probe(tower, tokenizer, edit.concepts, settings.layer),
    )
    if settings.breadth:
        report = dataclasses.replace(report, breadth=edit.report.breadth, condition=None)
    assert report.chosen is not None
    report = dataclasses.replace(report, chosen=report.chosen._replace(strength=strength))
    if not edit.doors:
        return report
    own = edit.report
    return dataclasses.replace(report, pooled=own.pooled, doors=own.doors, nbytes=own.nbytes)


def report_at(tower: Tower, tokenizer: PromptTokenizer, edit: WeightEdit, strength: float) -> EditReport:
    """The report of a computed edit at a strength; the edit's own where that is of this strength.

    Raises:
        TowerError: the edit does not fit the text encoder.
    """
    own = edit.report
    if own.chosen is not None and own.chosen.strength == strength:
        return own
    return dataclasses.replace(measure_edit(tower, tokenizer, edit, strength), milliseconds=own.milliseconds)


def require_fit(tower: Tower, edit: WeightEdit) -> None:
    """Refuse an edit of another kind of text encoder, or of several (TowerError)."""
    if edit.others:
        raise TowerError(
            f"The edit changes {len(edit.parts)} text encoders ({', '.join(part.encoder for part in edit.parts)}), and "
            "one is worked on here. Take its parts one by one (WeightEdit.parts), or ComfyUI's nodes, which do."
        )
    if edit.of_states != tower.identity:
        made, want = ("an image model's doors", "a text encoder") if edit.of_states else ("a text encoder", "doors")
        raise TowerError(
            f"The edit is one of {made} ({edit.encoder}), and {want} is asked for here. Use it with "
            + ("Load Edit's model input or Remove Concept." if edit.of_states else "Diff-QuickFix Edit's nodes.")
        )
    tower.require_layer(edit.settings.layer)
    shape = (tower.width, tower.width) if tower.identity else tuple(tower.weight(edit.weight_name).shape)
    if shape != (edit.up.shape[0], edit.down.shape[1]):
        raise TowerError(
            f"The edit changes a weight of {edit.up.shape[0]} x {edit.down.shape[1]}; this text encoder's is "
            f"{' x '.join(map(str, shape))}. It was made for another kind of model ({edit.encoder})."
        )


@torch.no_grad()
def find_lambda(
    tower: Tower,
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
        PromptError: the text encoder knows none of the concepts.
    """
    concepts = tuple(concepts)
    tower.require_layer(settings.layer)
    refuse_conflicts(concepts, tokenizer)
    if not known_concepts(tower, tokenizer, concepts):
        raise PromptError(
            f"This model does not know {concepts[0].source!r} or its target {concepts[0].target!r}"
            f"{', nor any other concept' if len(concepts) > 1 else ''}: no lambda is better than another. Check the "
            "spelling, or take words that this model was trained on."
        )
    guard = build_guard(tower, tokenizer, concepts, settings, progress)
    pairs = gather_pairs(tower, tokenizer, concepts, settings, Stopwatch(), progress)
    return lambda_curve(pairs.sums, guard, everyday_probe(tower, tokenizer, concepts, settings.layer), lambdas)


def lambda_curve(sums: Statistics, guard: Guard, probe: Probe, lambdas: Sequence[float] = LAMBDAS) -> LambdaCurve:
    """Efficacy against drift over lambda, for sums, guard and probe at hand."""
    return trace_lambda(Spectrum(sums, kept=guard.spectral(), held=guard.held), probe.drift_grams(), lambdas)


def everyday_probe(tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], layer: int) -> Probe:
    """The everyday prompts that name no concept, as the edited layer sees them."""
    naming = naming_any(EVERYDAY, [concept.source for concept in concepts], tokenizer)
    prompts = [prompt for prompt in EVERYDAY if prompt not in naming]
    return Probe.of(tower, layer, tokenizer.tokenize_all(prompts))


def _generality(
    tower: Tower,
    tokenizer: PromptTokenizer,
    concepts: Sequence[ConceptEdit],
    settings: EditSettings,
    update: LowRank,
) -> tuple[tuple[str, float], ...]:
    """Efficacy in held-out captions by kind of concept; of many concepts, a sample of :data:`_SAMPLE` for each kind."""
    found = []
    for kind in dict.fromkeys(concept.kind for concept in concepts):
        alike = [concept for concept in concepts if concept.kind == kind]
        sample = alike[:: -(-len(alike) // _SAMPLE)]
        captions = [
            (
                concept.source,
                concept.target or "",
                [template for template in HELD_OUT_TEMPLATES[kind] if template not in (concept.templates or ())],
            )
            for concept in sample
        ]
        batch = _pairs_that_fit(tokenizer, captions, settings.positions)
        if batch is not None:
            keys = encode_pairs(tower, batch, settings)
            found.append((kind, reached(keys.source, keys.residuals(*edited_layer(tower, settings)), update)))
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
