"""A guard by breadth: the keys of thousands of names, of which nobody needs to think.

What is named stays, and what is not may go with the concept. The Gram matrix of the keys of a list of names
(``concepts/names.py``) depends on the encoder alone: it is made once, kept (:func:`keep_grams_in`), and read for every
edit after that. What names an edited concept is taken out of it again,

    G = sum over all captions - sum over the captions left out,

where the second sum is of few captions, and computed for each edit. Divided by the number of captions it is the Gram
matrix of a mean caption; a weight w makes the whole list count as w preserved captions would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..text.prompts import PromptTokenizer, TokenizedPrompt
from ..text.rows import FILL
from .concepts.concept import ConceptEdit
from .concepts.names import Caption, NameList, name_list
from .concepts.pairs import ALIGNED, POSITIONS
from .concepts.settings import EditSettings
from .encoder.fingerprint import fingerprint
from .encoder.towers import Tower, beginnings
from .files.gram_cache import CountedGram, GramCache
from .measure.known import unknown_names
from .measure.report import Breadth
from .solver.closed_form import symmetric_product

# Captions run at once, and numbers in their keys: bounds the memory, and the time between two words of progress.
_BATCH, _NUMBERS = 128, 1 << 23
# Matrices of wider keys would take gigabytes.
WIDEST = 4096
# Names that a report lists.
_TOLD = 20

Progress = Callable[[int, int], None]


class BreadthError(ValueError):
    """A list of names that cannot guard an edit of this encoder."""


class BroadGuard(NamedTuple):
    """A list of names as the solver needs it.

    Attributes:
        mean: (d, d) in fp64 on the CPU, the Gram matrix of the list's keys over its number of captions.
        told: what the report says of it.
    """

    mean: torch.Tensor
    told: Breadth


_folder: Path | None = None


def keep_grams_in(folder: Path | None) -> None:
    """Keep the Gram matrices of lists in a folder from now on, at most some 500 MB; None, as at the start: in memory
    alone."""
    global _folder
    _folder = folder


class NameKeys:
    """The keys of a list of names in one text encoder, which must always be the same."""

    def __init__(self, settings: EditSettings) -> None:
        self._settings = settings
        self._every: CountedGram | None = None

    @torch.no_grad()
    def guard(
        self, tower: Tower, tokenizer: PromptTokenizer, concepts: Sequence[ConceptEdit], progress: Progress | None
    ) -> BroadGuard | None:
        """The guard by the settings' list, without what names a concept; None where the settings ask for none, or
        nothing is left of the list.

        Args:
            progress: called with (captions done, all captions) while the list is encoded for the first time, from 0
                on.

        Raises:
            PromptError: there is no such list.
            BreadthError: the encoder's keys are too wide, or it knows no name of the list.
        """
        settings = self._settings
        if not settings.breadth or not (settings.breadth_weight or settings.selectivity):
            return None
        listed = name_list(settings.breadth)
        if self._every is None:
            self._every = self._of_all(tower, tokenizer, listed, progress)
        every = self._every
        names, captions = listed.naming(concepts)
        out = {(name, place) for name in names for place in range(len(listed.captions[name]))} | captions
        unknown = _unknown(tower, tokenizer, [listed.captions[name][place] for name, place in sorted(out)])
        named = [caption for name, place in sorted(out) if (caption := listed.captions[name][place]) not in unknown]
        left = every.captions - len(named)
        if left <= 0:
            return None
        if 2 * len(named) > every.captions:
            others = [c for name, own in enumerate(listed.captions) for i, c in enumerate(own) if (name, i) not in out]
            unknown = _unknown(tower, tokenizer, others)
            total = self._summed(tower, tokenizer, [c for c in others if c not in unknown], progress)
        else:
            total = every.gram - self._summed(tower, tokenizer, named, None) if named else every.gram
        told = Breadth(
            listed.name,
            left,
            tuple(listed.names[name] for name in sorted(names))[:_TOLD],
            settings.breadth_weight,
            settings.selectivity,
            self._known(tower, tokenizer, listed, names),
            max(map(len, listed.captions)),
        )
        return BroadGuard(total / left, told)

    @staticmethod
    def _known(tower: Tower, tokenizer: PromptTokenizer, listed: NameList, out: Collection[int]) -> int:
        """How many names of a list the text encoder knows, without some of them."""
        left = [name for place, name in enumerate(listed.names) if place not in out]
        return len(left) - len(unknown_names(tower, tokenizer, left))

    def _of_all(
        self, tower: Tower, tokenizer: PromptTokenizer, listed: NameList, progress: Progress | None
    ) -> CountedGram:
        if tower.width > WIDEST:
            raise BreadthError(
                f"This model's text is read {tower.width} wide; a list of names guards up to {WIDEST}. Choose no list, "
                "and name what must stay in `preserve`."
            )
        captions = [caption for own in listed.captions for caption in own]
        texts = [caption.text for caption in captions]
        facts = {
            "list": listed.name,
            "captions": listed.digest,
            "positions": "with padding" if self._padded else "text",
            "site": f"{tower.encoder} {tower.out_proj_name(self._settings.layer)} {tower.width}",
            "encoder": fingerprint(tower, tokenizer, listed.names, texts, self._settings.layer),
        }
        cache = GramCache(_folder)
        found = cache.read(facts)
        if found is not None and len(found.gram) == tower.width:
            return found
        unknown = _unknown(tower, tokenizer, captions)
        wanted = [caption for caption in captions if caption not in unknown]
        if not wanted:
            raise BreadthError(
                f"This text encoder knows none of the names of the list {listed.name}. Choose no list, and name what "
                "must stay in `preserve`."
            )
        made = CountedGram(self._summed(tower, tokenizer, wanted, progress), len(wanted))
        cache.write(facts, made)
        return made

    @property
    def _padded(self) -> bool:
        """Whether the keys of the padding count: where it is edited."""
        return self._settings.positions in (POSITIONS[1], ALIGNED)

    def _summed(
        self, tower: Tower, tokenizer: PromptTokenizer, captions: Sequence[Caption], progress: Progress | None
    ) -> torch.Tensor:
        """sum of k k^T (d, d) in fp64 on the CPU over some captions, from the first word to the end of the text or of
        the padding."""
        prompts = tokenizer.tokenize_all([caption.text for caption in captions])
        prompts.sort(key=lambda prompt: prompt.eos)
        total = torch.zeros(tower.width, tower.width, dtype=torch.float64)
        size = self._batch(tower, prompts)
        if progress is not None:
            progress(0, len(prompts))
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            ends = [sum(token > FILL for token in p.ids) - 1 if self._padded else p.eos for p in part]
            length = max(ends) + 1
            keys = tower.attention_inputs(beginnings(tower, part, length), self._settings.layer, range(length))
            places = torch.arange(length)
            counted = (places >= torch.tensor([prompt.start for prompt in part])[:, None]) & (
                places <= torch.tensor(ends)[:, None]
            )
            total += symmetric_product(keys[counted.to(keys.device)]).cpu()
            if progress is not None:
                progress(min(start + size, len(prompts)), len(prompts))
        return total

    @staticmethod
    def _batch(tower: Tower, prompts: Sequence[TokenizedPrompt]) -> int:
        """How many of some prompts are run at once."""
        longest = tower.context_length
        if tower.whole or tower.shortens:
            longest = max((sum(token > FILL for token in prompt.ids) for prompt in prompts), default=1)
        return max(1, min(_BATCH, _NUMBERS // (longest * tower.width)))


def _unknown(tower: Tower, tokenizer: PromptTokenizer, captions: Sequence[Caption]) -> frozenset[Caption]:
    """Those of some captions of which the text encoder has a token that says nothing."""
    unknown = unknown_names(tower, tokenizer, [caption.text for caption in captions])
    return frozenset(caption for caption in captions if caption.text in unknown)
