"""Names that a model hardly knows: how far does a name move the text states that its doors read?

A text encoder has tokens for every name, and an untrained token (``known.py``) is rare in large ones. A name that it
learned nothing about still is one name among others to it: its captions differ from those of made-up names as these
differ from each other. With C_n the keys of a name n in some captions, from its last token to the end of the text (of
the whole text, where every token reads all others), and made-up names m of as many tokens, so that the captions match
position by position,

    moved(n) = ||C_n - mean of C_m||,   familiarity = moved(n) / root mean square over m of moved(m)

where a made-up name is compared with the mean of the others, brought to the same variance. It is about 1 for a name
that is like a made-up one.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch

from ...text.captions import expand
from ...text.prompts import PromptError, PromptTokenizer
from ..concepts.built_in import HELD_OUT_TEMPLATES
from ..concepts.concept import ConceptEdit
from ..encoder.towers import Tower
from .neighbours import last_tokens

# Concepts that are looked at, captions of each, made-up names beside it; fewer than three of these tell nothing.
_CONCEPTS, _CAPTIONS, _NAMES, _FEWEST = 4, 2, 6, 3
# Made-up words tried for a number of tokens, some at a time.
_TRIES, _BATCH = 480, 48
_CONSONANTS, _VOWELS = "bdfghjklmnprstvwxz", "aeiou"
# States that differ by less, relative to their size, are the same up to the rounding of fp32.
_SAME = 1e-5
MOST = 99.0
"""What stands for more, and for a name beside made-up ones that are all alike."""


@torch.no_grad()
def measure_familiarity(
    tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], layer: int = 0
) -> tuple[tuple[str, float], ...]:
    """(name, familiarity) of the sources of some concepts, a sample of :data:`_CONCEPTS`; without those of which there
    are no made-up names of as many tokens."""
    sample = concepts[:: -(-len(concepts) // _CONCEPTS)] if concepts else ()
    found: dict[str, float] = {}
    for concept in sample:
        templates = (HELD_OUT_TEMPLATES[concept.kind] or concept.templates or ("{x}",))[:_CAPTIONS]
        shares = [_squares(tower, tokenizer, concept.source, template, layer) for template in templates]
        measured = [share for share in shares if share is not None]
        if measured:
            own, others, size = (sum(column) for column in zip(*measured, strict=True))
            found[concept.source] = _ratio(own, others, size)
    return tuple(found.items())


def _ratio(own: float, others: float, size: float) -> float:
    """The familiarity, from mean squares."""
    if own <= _SAME**2 * size:
        return 1.0 if others <= _SAME**2 * size else (own / others) ** 0.5
    return min(MOST, (own / max(others, 1e-30)) ** 0.5)


def _squares(
    tower: Tower, tokenizer: PromptTokenizer, name: str, template: str, layer: int
) -> tuple[float, float, float] | None:
    """moved(n)^2, the mean of moved(m)^2, and the mean square of the keys, in one caption; None with too few m, or
    where the caption is longer than the context."""
    names = [name, *made_up_names(tokenizer, len(tokenizer.word_ids(name)), words=len(name.split()))]
    try:
        prompts = tokenizer.tokenize_all([caption for each in names for caption in expand([template], each)])
        lasts = last_tokens(tokenizer, names, [template])
    except PromptError:
        return None
    ends = [prompt.eos for prompt in prompts]
    alike = [place for place in range(len(names)) if (lasts[place], ends[place]) == (lasts[0], ends[0])]
    if len(alike) <= _FEWEST or ends[0] < lasts[0]:
        return None
    first = lasts[0] if tower.causal else prompts[0].start
    ids = [prompts[place].ids for place in alike]
    keys = tower.attention_inputs(ids, layer, range(first, ends[0] + 1)).flatten(1).double()
    own, others = keys[0], keys[1:]
    count = len(others)
    mean = others.mean(0)
    # Compared with the mean of the others: k - mean of the rest = (k - mean) n / (n - 1).
    apart = (others - mean) * (count / (count - 1))
    variance = (1 + 1 / count) / (1 + 1 / (count - 1))
    squares = apart.square().sum(1).mean() * variance
    return float((own - mean).square().sum()), float(squares), float(keys.square().sum(1).mean())


def made_up_names(tokenizer: PromptTokenizer, tokens: int, *, words: int = 1) -> tuple[str, ...]:
    """Some names of a number of tokens that nobody has: words of random syllables, always the same ones.

    Args:
        words: how many each has, where there are enough tokens.
    """
    found: list[str] = []
    candidates = _candidates(random.Random(tokens), max(1, min(words, tokens)), tokens)
    for _ in range(0, _TRIES, _BATCH):
        batch = [next(candidates) for _ in range(_BATCH)]
        for name, ids in zip(batch, tokenizer.word_ids_all(batch), strict=True):
            if len(ids) == tokens and name not in found:
                found.append(name)
        if len(found) >= _NAMES:
            break
    return tuple(found[:_NAMES])


def _candidates(chance: random.Random, words: int, tokens: int) -> Iterator[str]:
    """Endless names of some words, of about as many syllables as there are tokens, and fewer or more."""
    while True:
        syllables = [1] * words
        for _ in range(chance.randint(0, max(0, 2 * tokens - words))):
            syllables[chance.randrange(words)] += 1
        yield " ".join("".join(_syllable(chance) for _ in range(count)) for count in syllables)


def _syllable(chance: random.Random) -> str:
    end = chance.choice(_CONSONANTS) if chance.random() < 0.4 else ""
    return chance.choice(_CONSONANTS) + chance.choice(_VOWELS) + end
