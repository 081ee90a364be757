"""A prompt whose subject is hidden from ComfyUI's CLIP: its tokens, the corruption, clean and restored text states."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sd
import torch

from ...families.clip import text_sites
from ...families.sites import select
from ...text.prompts import PromptTokenizer, TokenizedPrompt
from ...text.subjects import SubjectError, find_subject, places
from ...tracing.runs.cases import Case, Restoration, encode_rows
from ...tracing.runs.corruption import Corruption, CorruptionError, gaussian, replacement
from .text_encoder import only_encoder

EXTENTS = ("subject", "whole prompt")


@dataclass(frozen=True)
class CorruptionSettings:
    """How a subject is hidden.

    Attributes:
        multiple: std of the noise, as a multiple of the std of the embeddings that it hides.
        draws: how many draws of the noise are traced.
        seed: seed of the noise.
        replaced_by: words whose embeddings take the subject's place; there is one draw then, and no noise in it.
        extent: one of :data:`EXTENTS`; "whole prompt" corrupts every token after the start, padding too.
    """

    multiple: float = 3.0
    draws: int = 1
    seed: int = 0
    replaced_by: str = ""
    extent: str = EXTENTS[0]

    def __post_init__(self) -> None:
        if self.extent not in EXTENTS:
            raise CorruptionError(f"Unknown extent {self.extent!r}; expected one of {', '.join(EXTENTS)}.")
        if self.replaced_by.strip() and self.extent != EXTENTS[0]:
            raise CorruptionError("Other words can take the subject's place only; set corrupt to subject.")

    @property
    def traced(self) -> int:
        """The number of draws to trace."""
        return 1 if self.replaced_by.strip() else self.draws


@dataclass(frozen=True)
class CorruptedPrompt:
    """What the socket CORRUPTION carries: a prompt, where its subject stands, and the noise that hides it.

    Attributes:
        clip: the CLIP that encodes it.
        case: the prompt for the tracer.
        tokens: the 77 tokens that hold the subject.
        subject: the subject's token positions in them.
        pooled: the clean prompt's pooled output.
    """

    clip: comfy.sd.CLIP
    case: Case
    tokens: TokenizedPrompt
    subject: range
    pooled: torch.Tensor | None
    labels: tuple[str, ...]

    def encode(self, rows: Sequence[Restoration]) -> torch.Tensor:
        """Text states (rows, tokens, width)."""
        encoder = only_encoder(self.clip)[1]
        sites = {site.name: site for site in text_sites(encoder)}
        return encode_rows(self.case, first_layer(self.clip), sites, rows)

    def conditioning(self, restoration: Restoration) -> list[Any]:
        """Text states of one row as a CONDITIONING."""
        return [[self.encode([restoration]), {"pooled_output": self.pooled}]]

    def restored(self, layer: int, kind: str, place: str) -> list[Any]:
        """The corrupted prompt with one site put back at one place, as a CONDITIONING.

        Raises:
            SiteError: no such layer.
            SubjectError: the place is empty in this prompt.
        """
        (site,) = select(text_sites(only_encoder(self.clip)[1]), names=f"text.{layer}.{kind}")
        return self.conditioning(Restoration(0, (site.name,), self.positions(place)))

    def positions(self, place: str) -> tuple[int, ...] | None:
        """Token positions of one of ``prompts.PLACES``; None for all of them.

        Raises:
            SubjectError: the place is empty in this prompt.
        """
        found = places(self.tokens, self.subject)[place]
        if found == ():
            raise SubjectError(f"The prompt {self.tokens.text!r} has no token at the place {place!r}; choose another.")
        return found


def first_layer(clip: comfy.sd.CLIP) -> torch.nn.Module:
    """Layer 0 of a CLIP's text encoder."""
    return only_encoder(clip)[1].transformer.text_model.encoder.layers[0]


def cut_prompt(
    prompt: str, parts: Sequence[Sequence[tuple[Any, ...]]], tokenizer: Any, end: int
) -> list[TokenizedPrompt]:
    """A prompt as ComfyUI cuts it, 77 tokens each; entries that are no word (embeddings) become -1.

    Args:
        parts: what ComfyUI's tokenizer gives: lists of (token id, weight).
        tokenizer: the transformers tokenizer that it wraps.
        end: the id of the token that ends a text.
    """
    chunks = []
    for part in parts:
        ids = tuple(int(entry[0]) if isinstance(entry[0], int) else -1 for entry in part)
        eos = ids.index(end) if end in ids else len(ids)
        pieces = tokenizer.convert_ids_to_tokens([max(i, 0) for i in ids[1:eos]])
        chunks.append(TokenizedPrompt(prompt, ids, eos, tuple(piece.endswith("</w>") for piece in pieces)))
    return chunks


def _labels(clip: comfy.sd.CLIP, tokens: TokenizedPrompt) -> tuple[str, ...]:
    name, _ = only_encoder(clip)
    pieces = getattr(clip.tokenizer, name).tokenizer.convert_ids_to_tokens([max(i, 0) for i in tokens.body])
    return ("<start>", *(piece.removesuffix("</w>") for piece in pieces), "<end>")


def corrupt_prompt(
    clip: comfy.sd.CLIP, prompt: str, subject: str, settings: CorruptionSettings | None = None
) -> CorruptedPrompt:
    """Find the subject among a prompt's tokens and draw the noise that hides it.

    All occurrences of the subject are corrupted; the last one is the subject that places are counted from. The
    corruption holds one draw more than is traced: the control's donor.

    Raises:
        SubjectError: the subject is not in the prompt, or in several of its parts of 77 tokens.
        UnsupportedEncoderError: not a CLIP with one text encoder.
        CorruptionError: the noise is empty, or the replacing words have more tokens than the subject.
    """
    settings = settings or CorruptionSettings()
    tokens = clip.tokenize(prompt)
    name, encoder = only_encoder(clip)
    (parts,) = tokens.values()
    chunks = cut_prompt(prompt, parts, getattr(clip.tokenizer, name).tokenizer, encoder.special_tokens["end"])
    reader = _reader(clip)
    number, ranges = find_in_parts(chunks, subject, reader)
    corruption = _corrupt(clip, chunks[number], ranges, reader, settings)
    case = Case(prompt, subject, corruption, _encode(clip, tokens), chunks=len(chunks), chunk=number)
    pooled = clip.encode_from_tokens(tokens, return_pooled=True)[1]
    return CorruptedPrompt(clip, case, chunks[number], ranges[-1], pooled, _labels(clip, chunks[number]))


def _reader(clip: comfy.sd.CLIP) -> PromptTokenizer:
    name, encoder = only_encoder(clip)
    own = getattr(clip.tokenizer, name)
    return PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=encoder.max_length)


def find_in_parts(
    chunks: Sequence[TokenizedPrompt], subject: str, reader: PromptTokenizer
) -> tuple[int, tuple[range, ...]]:
    """The number of the one part of a prompt that holds the subject, and where it stands in it.

    Raises:
        SubjectError: none does, or several.
    """
    found: list[tuple[int, tuple[range, ...]]] = []
    trouble: SubjectError | None = None
    for number, chunk in enumerate(chunks):
        try:
            found.append((number, find_subject(chunk, subject, reader)))
        except SubjectError as error:
            trouble = error
    if len(found) > 1:
        raise SubjectError(
            f"The subject {subject!r} occurs in {len(found)} of the {len(chunks)} parts of 77 tokens that ComfyUI cuts "
            "this prompt into; corrupting one would leave the others. Name it once, or shorten the prompt."
        )
    if not found:
        assert trouble is not None
        raise trouble
    return found[0]


def _corrupt(
    clip: comfy.sd.CLIP,
    tokens: TokenizedPrompt,
    ranges: Sequence[range],
    reader: PromptTokenizer,
    settings: CorruptionSettings,
) -> Corruption:
    table = only_encoder(clip)[1].transformer.text_model.embeddings.token_embedding

    def embeddings(ids: Sequence[int]) -> torch.Tensor:
        # The table may lie on the CPU when the encoder does not; ComfyUI brings it to where its input is.
        return table(torch.tensor([list(ids)], device=clip.patcher.load_device), out_dtype=torch.float32)[0].cpu()

    # Loaded first: patched embeddings are the ones that the encoder will see.
    comfy.model_management.load_models_gpu([clip.patcher])
    whole = settings.extent != EXTENTS[0]
    positions = tuple(range(1, len(tokens.ids)) if whole else sorted(set(itertools.chain.from_iterable(ranges))))
    own = embeddings([tokens.ids[i] for i in positions])
    noise = gaussian(own, positions, multiple=settings.multiple, draws=settings.traced + 1, seed=settings.seed)
    if not settings.replaced_by.strip():
        return noise
    swap = replacement(own, positions, embeddings(reader.word_ids(settings.replaced_by)))
    return Corruption(positions, torch.cat([swap.deltas, noise.deltas[:1]]), 0.0, settings.seed)


def _encode(clip: comfy.sd.CLIP, tokens: dict[str, Any]) -> Callable[[int], torch.Tensor]:
    def encode(rows: int) -> torch.Tensor:
        # ComfyUI encodes the parts of a long prompt side by side and joins them: equal parts are equal rows.
        joined = clip.encode_from_tokens({key: list(parts) * rows for key, parts in tokens.items()})
        return joined.reshape(rows, joined.shape[1] // rows, joined.shape[2])

    return encode


# --- marked prompts --------------------------------------------------------------------------------------------------

_MARKED = r"\[([^\[\]]+)\]"


def parse_prompts(text: str) -> list[tuple[str, str]]:
    """Lines of prompts with the subject in square brackets, as (prompt, subject).

    Raises:
        SubjectError: no lines, or a line without exactly one marked subject.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise SubjectError("No prompt given. Write one a line with the subject in brackets: a house by [van gogh]")
    result = []
    for line in lines:
        marked = re.findall(_MARKED, line)
        if len(marked) != 1:
            raise SubjectError(
                f"Found {len(marked)} subjects in brackets in the line {line!r}; expected exactly one, such as: "
                "a house by [van gogh]"
            )
        result.append((re.sub(_MARKED, r"\1", line), marked[0].strip()))
    return result
