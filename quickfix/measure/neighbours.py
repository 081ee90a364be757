"""Neighbours of a concept: does an edit take away what tells other names of its kind apart?

A concept is gone from pictures once the edit has taken it about half of the way to its target (``verdict.py``); another
name is lost in the same way, whoever asked for it. How far a name n moves is measured in captions that no edit is
computed from, right after the edited attention, at its last token and behind it:

    moved(n) = ||delta K_n|| / ||W0 (K_n - mean of K_m over the other names m)||

so that 1 is as far as from the name to what all names share. The names are those of the built-in lists of the concept's
kind that are most like it, whether anything preserves them or not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from ...text.captions import expand
from ...text.prompts import PromptTokenizer
from ...text.rows import RowTokenizer
from ...text.subjects import naming_any
from ..concepts.built_in import HELD_OUT_TEMPLATES, NAMES_ALIKE, NAMES_OF_KIND
from ..concepts.concept import ConceptEdit
from ..encoder.towers import Tower, beginnings, up_to
from ..solver.low_rank import LowRank
from .known import unknown_names
from .verdict import LOST, Neighbours

# Names that are looked at for each kind, and concepts of a kind whose neighbours they are.
_NEAREST, _CONCEPTS = 24, 8
# Positions that are compared: the last token of a name and those behind it.
_POSITIONS = 8
_WORST = 5


@torch.no_grad()
def measure_neighbours(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], layer: int, update: LowRank
) -> Neighbours | None:
    """What an update of ``layer``'s output projection does to names of the concepts' kinds; None where the text encoder
    knows fewer than three of them."""
    moved: dict[str, float] = {}
    for kind in dict.fromkeys(concept.kind for concept in concepts):
        alike = [concept for concept in concepts if concept.kind == kind]
        sample = alike[:: -(-len(alike) // _CONCEPTS)]
        names = nearest_names(tower, tokenizer, concepts, sample)
        if len(names) > 2:
            shares = _moved(tower, tokenizer, names, _captions(tokenizer, concepts, kind), layer, update)
            for name, share in zip(names, shares, strict=True):
                moved[name] = max(share, moved.get(name, 0.0))
    if not moved:
        return None
    worst = sorted(moved.items(), key=lambda hit: (-hit[1], hit[0]))[:_WORST]
    lost = sum(share > LOST for share in moved.values())
    return Neighbours(len(moved), lost, sum(moved.values()) / len(moved), tuple(worst))


def _captions(tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], kind: str) -> tuple[str, ...]:
    """Held-out templates of a kind that do not name an edited concept themselves; the name alone, where all do."""
    without = {template: template.replace("{x}", " ") for template in HELD_OUT_TEMPLATES[kind]}
    naming = naming_any(list(without.values()), [concept.source for concept in concepts], tokenizer)
    return tuple(template for template, text in without.items() if text not in naming) or ("{x}",)


def nearest_names(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], sample: Sequence[ConceptEdit]
) -> tuple[str, ...]:
    """The built-in names most like some concepts, by the mean of their tokens' embeddings, the most alike first.

    Args:
        concepts: all that are edited; names that hold one of them are left out.
        sample: those whose neighbours are wanted, of one kind.
    """
    listed = _listed(tokenizer, sample)
    naming = naming_any(listed, [concept.source for concept in concepts], tokenizer)
    plurals = {concept.source.casefold() + ending for concept in concepts for ending in ("s", "es")}
    names = [name for name in listed if name not in naming and name.casefold() not in plurals]
    unknown = unknown_names(tower, tokenizer, names)
    names = [name for name in names if name not in unknown]
    if len(names) <= _NEAREST:
        return tuple(names)
    words = tower.mean_embeddings(tokenizer.word_ids_all([*names, *(concept.source for concept in sample)]))
    words = F.normalize(words - words[: len(names)].mean(0), dim=1)
    nearness = (words[: len(names)] @ words[len(names) :].T).amax(1)
    return tuple(names[place] for place in nearness.argsort(descending=True, stable=True)[:_NEAREST].tolist())


def _listed(tokenizer: PromptTokenizer, sample: Sequence[ConceptEdit]) -> tuple[str, ...]:
    """The lists that hold the concepts; where none does, that of their kind."""
    words = set(tokenizer.word_ids_all([concept.source for concept in sample]))
    lists = [names for names in NAMES_ALIKE if not words.isdisjoint(tokenizer.word_ids_all(names))]
    return tuple(dict.fromkeys(name for names in lists or [NAMES_OF_KIND[sample[0].kind]] for name in names))


def last_tokens(tokenizer: PromptTokenizer, names: Sequence[str], templates: Sequence[str]) -> list[int]:
    """The last token of each name in each template, template by template of a name."""
    if isinstance(tokenizer, RowTokenizer):
        return [tokenizer.spans(template, name)[0][-1] for name in names for template in templates]
    # A caption may hold the name elsewhere too: "a dog by {x}".
    before, own = (
        [len(ids) for ids in tokenizer.word_ids_all(texts)]
        for texts in ([template.split("{x}")[0] for template in templates], names)
    )
    return [start + length for length in own for start in before]


def _moved(
    tower: Tower,
    tokenizer: PromptTokenizer,
    names: Sequence[str],
    templates: Sequence[str],
    layer: int,
    update: LowRank,
) -> list[float]:
    """How far each name moves (see the module's text)."""
    prompts = tokenizer.tokenize_all([caption for name in names for caption in expand(templates, name)])
    lasts = last_tokens(tokenizer, names, templates)
    rows = beginnings(tower, prompts, max(lasts) + _POSITIONS)
    inputs = tower.attention_inputs(up_to(tower, rows, torch.tensor(lasts) + _POSITIONS - 1), layer)
    places = (torch.tensor(lasts)[:, None] + torch.arange(_POSITIONS)).clamp_max(inputs.shape[1] - 1)
    keys = inputs[torch.arange(len(prompts), device=inputs.device)[:, None], places.to(inputs.device)]
    keys = keys.unflatten(0, (len(names), len(templates)))
    others = (keys.sum(0) - keys) / (len(names) - 1)
    apart = keys - others
    if not tower.identity:
        apart = apart @ tower.weight(tower.out_proj_name(layer)).T
    apart = apart.flatten(1).norm(dim=1)
    change = update.coordinates(keys).flatten(1).norm(dim=1)
    return (change / apart.clamp_min(torch.finfo(apart.dtype).tiny)).tolist()
