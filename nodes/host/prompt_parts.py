"""A prompt as ComfyUI cuts it: parts of as many tokens as the encoder reads, embeddings among them, and the subject."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

from ...text.prompts import PromptError, PromptTokenizer, TokenizedPrompt
from ...text.subjects import SubjectError, find_subject

EMBEDDING = "embedding:"
# The id of an embedding's vector, which is no token of the vocabulary.
NO_TOKEN = -1


@dataclass(frozen=True)
class PromptPart:
    """One part of a prompt.

    Attributes:
        tokens: its tokens; a vector of an embedding has the id :data:`NO_TOKEN`.
        labels: what each position up to the end of the text shows: "<start>", the tokens, "<end>". Each vector of an
            embedding shows "embedding:" and its name.
    """

    tokens: TokenizedPrompt
    labels: tuple[str, ...]


def tokenize_naming(tokenizer: Any, prompt: str, **options: Any) -> tuple[list[Any], list[str]]:
    """Tokenize as ComfyUI does, and learn the embeddings' names, which its tokens do not tell.

    Args:
        tokenizer: ComfyUI's tokenizer of one encoder (``SDTokenizer``).

    Returns:
        Parts of (token id or vector, weight, number of the word), and the names of the embeddings that were found.

    Raises:
        PromptError: "embedding:" without a name.
    """
    names: list[str] = []
    load = tokenizer._try_get_embedding

    def noted(name: str) -> Any:
        if not name.split():
            raise PromptError(
                f"The prompt has {EMBEDDING!r} without a name behind it: {prompt!r}. Write the name of a file in "
                "ComfyUI's models/embeddings, without a space before it."
            )
        found = load(name)
        if found[0] is not None and found[0].numel():
            names.append(EMBEDDING + (found[1] if len(found) > 2 else name.split()[0]).strip(","))
        return found

    # A copy: the tokenizer belongs to every CLIP of its checkpoint.
    noting = copy.copy(tokenizer)
    noting._try_get_embedding = noted
    return noting.tokenize_with_weights(prompt, return_word_ids=True, **options), names


def cut_prompt(
    prompt: str, parts: Sequence[Sequence[tuple[Any, ...]]], names: Sequence[str], tokenizer: Any, width: int | None
) -> list[PromptPart]:
    """The parts of a tokenized prompt.

    Args:
        parts: tokens and names as :func:`tokenize_naming` gives them.
        tokenizer: ComfyUI's tokenizer of the encoder.
        width: of the encoder's token embeddings. ComfyUI leaves out an embedding of another width and pads the end.
            None: every embedding fits.
    """
    owners = dict.fromkeys(entry[2] for part in parts for entry in part if not isinstance(entry[0], numbers.Integral))
    named = dict(zip(owners, names, strict=False))
    return [_cut_part(prompt, part, named, tokenizer, width) for part in parts]


def _cut_part(
    prompt: str, part: Sequence[tuple[Any, ...]], named: Mapping[int, str], tokenizer: Any, width: int | None
) -> PromptPart:
    ids: list[int] = []
    words: list[int] = []
    left_out = 0
    for token, _, word in part:
        if isinstance(token, numbers.Integral):
            ids, words = [*ids, int(token)], [*words, word]
            continue
        vectors = token.numel() // token.shape[-1]
        if width is None or token.shape[-1] == width:
            ids, words = [*ids, *[NO_TOKEN] * vectors], [*words, *[word] * vectors]
        else:
            left_out += vectors
    ids += [tokenizer.pad_token] * left_out
    words += [0] * left_out
    eos = ids.index(tokenizer.end_token, 1) if tokenizer.end_token in ids[1:] else len(ids)
    pieces = tokenizer.tokenizer.convert_ids_to_tokens([max(i, 0) for i in ids[1:eos]])
    labels, ends = ["<start>"], []
    for place, piece in enumerate(pieces, start=1):
        embedding = ids[place] == NO_TOKEN
        labels.append(named.get(words[place], EMBEDDING) if embedding else piece.removesuffix("</w>"))
        last = place + 1 == eos or words[place + 1] != words[place]
        ends.append(last if embedding else piece.endswith("</w>"))
    return PromptPart(TokenizedPrompt(prompt, tuple(ids), eos, tuple(ends)), (*labels, "<end>"))


def find_in_parts(parts: Sequence[PromptPart], subject: str, reader: PromptTokenizer) -> tuple[int, tuple[range, ...]]:
    """The number of the one part of a prompt that holds the subject, and where it stands in it.

    Raises:
        SubjectError: none does, several do, or the subject lies over the seam of two.
    """
    if subject.strip().lower().startswith(EMBEDDING):
        raise SubjectError(
            f"The subject {subject!r} is an embedding, which has vectors and no words. Name words of the prompt."
        )
    chunks = [part.tokens for part in parts]
    whole = _joined(chunks, reader)
    starts = [0, *accumulate(len(chunk.body) for chunk in chunks)]

    def part_of(position: int) -> int:
        return next(number for number, stop in enumerate(starts[1:]) if position <= stop)

    found: dict[int, list[range]] = {}
    length = len(chunks[0].ids)
    for place in find_subject(whole, subject, reader):
        first, last = part_of(place[0]), part_of(place[-1])
        if first != last:
            raise SubjectError(
                f"The subject {subject!r} lies over the seam of parts {first + 1} and {last + 1} of {length} tokens "
                "that ComfyUI cuts this prompt into; no part holds it whole. Add or take away some words before it, or "
                "move it to the front."
            )
        shift = starts[first]
        found.setdefault(first, []).append(range(place.start - shift, place.stop - shift))
    if len(found) > 1:
        raise SubjectError(
            f"The subject {subject!r} occurs in {len(found)} of the {len(parts)} parts of {length} tokens that ComfyUI "
            "cuts this prompt into; corrupting one would leave the others. Name it once, or shorten the prompt."
        )
    ((number, ranges),) = found.items()
    return number, tuple(ranges)


def names_subject(parts: Sequence[PromptPart], subject: str, reader: PromptTokenizer) -> bool:
    """Whether a prompt holds some words, in any of its parts or over their seams."""
    try:
        return bool(find_subject(_joined([part.tokens for part in parts], reader), subject, reader))
    except SubjectError:
        return False


def _joined(chunks: Sequence[TokenizedPrompt], reader: PromptTokenizer) -> TokenizedPrompt:
    """The parts of a prompt as one, however long."""
    body = tuple(chain.from_iterable(chunk.body for chunk in chunks))
    ends = tuple(chain.from_iterable(chunk.words for chunk in chunks))
    return TokenizedPrompt(chunks[0].text, (reader.bos, *body, reader.eos), len(body) + 1, ends)
