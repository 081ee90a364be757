"""Targets ranked without painting: what is left of a concept once it has become each of some words?

The source's keys are the same whatever it becomes, so one decomposition serves all candidates (``solver/spectrum.py``),
and each is judged at its own best lambda.

How far an edit goes does not tell a good target. Another artist's name takes "van gogh" away from itself as well as
"painting" does, and brings another style. So what counts is where the edit *leads*: the final text states, which the
image model reads, of captions that the edit has not seen, by their distance from those of :data:`PLAIN_WORDS`,

    removal = 1 - ||edited source - plain words|| / ||source - plain words||

0 for a target that is the source, 1 where nothing but a plain word is left, below 0 where the target says more than the
source did. The best candidate has the largest removal - drift / 0.1, as the best lambda has the largest efficacy less
the same.

On Shapes, "van gogh" (guarded, 12 pictures for each target, all 12 read as van gogh before): after the edit none did,
whatever the target. Targets with a removal of 53 % to 74 % ("painting", "photo", "image", ...) left 11 of 12 pictures
without a style and all else as it was; "circle" (37 %) bent one of 12 objects; "red" (11 %) painted half of the shapes
red; and the other styles that Shapes knows (8 % and less) painted 9 to 12 of 12 pictures in their own style, though
their efficacy was as high or higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from ..text.captions import expand
from ..text.prompts import PromptError, PromptTokenizer, TokenizedPrompt
from ..text.subjects import naming_any
from .concepts.built_in import HELD_OUT_TEMPLATES, KNOWN_NAMES, PLAIN_WORDS
from .concepts.concept import ConceptEdit
from .concepts.conflicts import refuse_conflicts
from .concepts.settings import GUARDED, EditSettings
from .edit import everyday_probe
from .encoder.towers import Tower, beginnings
from .guard import build_guard
from .measure.known import known_concepts, unknown_names
from .measure.radar import names_gram
from .measure.stopwatch import Stopwatch
from .measure.target_ranking import Candidate, TargetRanking
from .solver.closed_form import Statistics
from .solver.spectrum import Spectrum, trace_turned
from .stream import edited_layer, gather_pairs

# Final states that are compared: at the end of a caption and in the padding right behind it.
_STATES = 4


@torch.no_grad()
def find_target(
    tower: Tower,
    tokenizer: PromptTokenizer,
    source: str,
    kind: str = "style",
    candidates: Sequence[str] = (),
    settings: EditSettings = GUARDED,
    *,
    templates: tuple[str, ...] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TargetRanking:
    """Rank what a concept could become (see the module's text).

    Args:
        source, kind, templates: as of :class:`ConceptEdit`.
        candidates: targets; none for the :data:`PLAIN_WORDS` of the kind.
        settings: of the edit; its lambda counts nothing.
        progress: called with (candidates done, all); an exception it raises ends the work.

    Raises:
        PromptError, SubjectError, HeldError, TowerError: as :func:`compute_edit`, for any of the candidates; a source
            that the text encoder does not know, or no candidate that it knows.
    """
    tower.require_layer(settings.layer)
    wanted = list(dict.fromkeys(candidates)) or [
        word for word in PLAIN_WORDS.get(kind, ()) if tokenizer.word_ids(word) != tokenizer.word_ids(source)
    ]
    concepts = [ConceptEdit(source, word, kind, templates) for word in wanted]
    for concept in concepts:
        refuse_conflicts([concept], tokenizer)
    if not concepts:
        raise PromptError(f"Unknown kind of concept {kind!r}; expected one of {', '.join(PLAIN_WORDS)}.")
    known = _known(tower, tokenizer, concepts)
    judge, judged = _Judge(tower, tokenizer, known[0], settings), []
    for number, concept in enumerate(known, 1):
        judged.append(judge(concept))
        if progress is not None:
            progress(number, len(known))
    unknown = tuple(concept.target or "" for concept in concepts if concept not in known)
    return TargetRanking(concepts[0].source, tuple(sorted(judged, key=lambda one: -one.worth)), unknown)


def _known(tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit]) -> tuple[ConceptEdit, ...]:
    """The concepts of one source whose targets the text encoder knows, at least one."""
    source = concepts[0].source
    if unknown_names(tower, tokenizer, [source]):
        raise PromptError(
            f"This model does not know {source!r}: there is nothing to replace. Check the spelling, or take words that "
            "this model was trained on."
        )
    known = known_concepts(tower, tokenizer, concepts)
    if not known:
        tried = ", ".join(repr(concept.target) for concept in concepts[:8])
        raise PromptError(
            f"This model knows none of the candidates: {tried}. Name some that it was trained on, one on each line."
        )
    return known


class _Judge:
    """What all candidates of one source share."""

    def __init__(self, tower: Tower, tokenizer: PromptTokenizer, concept: ConceptEdit, settings: EditSettings) -> None:
        self._tower, self._tokenizer, self._settings = tower, tokenizer, settings
        sums, layer = self._sums(concept), settings.layer
        guard = build_guard(tower, tokenizer, [concept], settings)
        self._spectrum = Spectrum(sums, kept=guard.spectral(), held=guard.held)
        weight = edited_layer(tower, settings)[0]
        outputs = sums.gram if weight is None else weight.double() @ sums.gram @ weight.double().T
        self._size = float(outputs.trace()) ** 0.5
        naming = naming_any(KNOWN_NAMES, [concept.source], tokenizer)
        names = [name for name in KNOWN_NAMES if name not in naming]
        probe = everyday_probe(tower, tokenizer, [concept], layer)
        self._keys, self._names, *self._everyday = (
            self._spectrum.turned(gram)
            for gram in (sums.gram, names_gram(tower, tokenizer, layer, names), *probe.drift_grams())
        )
        self._captions = [
            template for template in HELD_OUT_TEMPLATES[concept.kind] if template not in (concept.templates or ())
        ] or list(concept.templates or ())
        self._source, self._plain_words = self._prompts(concept.source), PLAIN_WORDS[concept.kind]

    def __call__(self, concept: ConceptEdit) -> Candidate:
        spectrum = self._spectrum.toward(self._sums(concept))
        curve = trace_turned(spectrum, self._everyday)
        lam, knee = curve.best, curve.knee
        change, collateral = (
            spectrum.moved(spectrum.form_of_turned(turned), lam) for turned in (self._keys, self._names)
        )
        removal = 1.0 - self._distance(spectrum.delta(lam)) / self._whole_distance
        return Candidate(
            concept.target or "", lam, removal, change / self._size, curve.efficacy[knee], curve.drift[knee], collateral
        )

    def _sums(self, concept: ConceptEdit) -> Statistics:
        return gather_pairs(self._tower, self._tokenizer, [concept], self._settings, Stopwatch()).sums

    def _prompts(self, word: str) -> list[TokenizedPrompt]:
        return self._tokenizer.tokenize_all(list(expand(self._captions, word)))

    @cached_property
    def _plain(self) -> torch.Tensor:
        """Mean end states of the captions with plain words, (captions, states, d)."""
        states = [self._end_states(self._prompts(word)) for word in self._plain_words]
        return torch.stack(states).mean(0)

    @cached_property
    def _whole_distance(self) -> float:
        return max(self._distance(), torch.finfo(torch.float32).tiny)

    def _distance(self, delta: torch.Tensor | None = None) -> float:
        """||source - plain words|| over the end states, before or after an update."""
        return float((self._end_states(self._source, delta) - self._plain).norm())

    def _end_states(self, prompts: Sequence[TokenizedPrompt], delta: torch.Tensor | None = None) -> torch.Tensor:
        """Last hidden states at the end of some captions and behind it, (captions, states, d)."""
        longest, layer = max(prompt.eos for prompt in prompts) + _STATES, self._settings.layer
        inputs, residual = self._tower.attention_states(beginnings(self._tower, prompts, longest), layer)
        if delta is not None:
            residual = residual + inputs @ delta.to(inputs).T
        states = self._tower.finish(residual, layer)
        last = states.shape[1] - 1
        places = [[min(prompt.eos + step, last) for step in range(_STATES)] for prompt in prompts]
        return states[torch.arange(len(prompts))[:, None], torch.tensor(places)]
