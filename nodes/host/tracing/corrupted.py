"""A prompt whose subject is hidden from ComfyUI's CLIP: its tokens, the corruption, clean and restored text states."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch

from ....families.clip import text_sites
from ....families.sites import select
from ....text.prompts import PromptTokenizer, TokenizedPrompt
from ....text.subjects import SubjectError, places
from ....tracing.runs.cases import Case, Restoration, encode_rows
from ....tracing.runs.corruption import Corruption, CorruptionError, gaussian, replacement
from ..editing.text_encoder import only_encoder
from ..objects import Clip, Conditioning
from ..prompt_parts import PromptPart, cut_prompt, find_in_parts, tokenize_naming

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
        tokens: the tokens of the part that holds the subject.
        subject: the subject's token positions in them.
        labels: what the positions up to the end of the text show.
        options: for each entry of the prompt's CONDITIONING, what stands in it beside the text states: the pooled
            output, hooks, and the part of the sampling that it is for. Hooks with a schedule give several entries.
    """

    clip: Clip
    case: Case
    tokens: TokenizedPrompt
    subject: range
    labels: tuple[str, ...]
    options: tuple[Mapping[str, Any], ...]

    def encode(self, rows: Sequence[Restoration]) -> torch.Tensor:
        """Text states (rows, tokens, width); those of several entries follow each other along the tokens."""
        encoder = only_encoder(self.clip)[1]
        sites = {site.name: site for site in text_sites(encoder)}
        return encode_rows(self.case, first_layer(self.clip), sites, rows)

    def entries(self, restoration: Restoration) -> tuple[torch.Tensor, ...]:
        """Text states (1, tokens, width) of one row, for each entry of the CONDITIONING."""
        return self.encode([restoration]).chunk(len(self.options), 1)

    def conditioning(self, restoration: Restoration) -> Conditioning:
        """Text states of one row as a CONDITIONING."""
        entries = zip(self.entries(restoration), self.options, strict=True)
        return [[states, dict(options)] for states, options in entries]

    def restored(self, layer: int, kind: str, place: str) -> Conditioning:
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


def first_layer(clip: Clip) -> torch.nn.Module:
    """Layer 0 of a CLIP's text encoder."""
    return only_encoder(clip)[1].transformer.text_model.encoder.layers[0]


def read_prompt(clip: Clip, prompt: str) -> list[PromptPart]:
    """The parts of a prompt, as a CLIP's encoder is given them.

    Raises:
        PromptError: "embedding:" without a name.
        UnsupportedEncoderError: not a CLIP with one text encoder.
    """
    name, encoder = only_encoder(clip)
    own = getattr(clip.tokenizer, name)
    options = getattr(clip, "tokenizer_options", {})
    parts, names = tokenize_naming(own, prompt, **({"tokenizer_options": options} if options else {}))
    width = encoder.transformer.text_model.embeddings.token_embedding.weight.shape[-1]
    return cut_prompt(prompt, parts, names, own, width)


def corrupt_prompt(
    clip: Clip, prompt: str, subject: str, settings: CorruptionSettings | None = None
) -> CorruptedPrompt:
    """Find the subject among a prompt's tokens and draw the noise that hides it.

    All occurrences of the subject are corrupted; the last one is the subject that places are counted from. The
    corruption holds one draw more than is traced: the control's donor.

    Raises:
        PromptError: "embedding:" without a name.
        SubjectError: the subject is not in the prompt, in several of its parts, or over the seam of two.
        UnsupportedEncoderError: not a CLIP with one text encoder.
        CorruptionError: the noise is empty, or the replacing words have more tokens than the subject.
    """
    settings = settings or CorruptionSettings()
    parts = read_prompt(clip, prompt)
    number, ranges = find_in_parts(parts, subject, _reader(clip))
    tokens = clip.tokenize(prompt)
    (given,) = tokens.values()
    corruption = _corrupt(clip, given[number], ranges, settings)
    case = Case(prompt, subject, corruption, _encode(clip, tokens), chunks=len(parts), chunk=number)
    options = tuple(entry[1] for entry in clip.encode_from_tokens_scheduled(tokens, show_pbar=False))
    return CorruptedPrompt(clip, case, parts[number].tokens, ranges[-1], parts[number].labels, options)


def _reader(clip: Clip) -> PromptTokenizer:
    name, encoder = only_encoder(clip)
    own = getattr(clip.tokenizer, name)
    return PromptTokenizer(own.tokenizer, pad_token=own.pad_token, context_length=encoder.max_length)


def _corrupt(
    clip: Clip, part: Sequence[tuple[Any, ...]], ranges: Sequence[range], settings: CorruptionSettings
) -> Corruption:
    """The noise for one part of a tokenized prompt, given as (token id or vector, weight)."""
    encoder = only_encoder(clip)[1]

    def embeddings(tokens: Sequence[Any]) -> torch.Tensor:
        # The table may lie on the CPU when the encoder does not; ComfyUI brings it to where its input is.
        return encoder.process_tokens([list(tokens)], clip.patcher.load_device)[0][0].float().cpu()

    # Loaded first: patched embeddings are the ones that the encoder will see.
    comfy.model_management.load_models_gpu([clip.patcher])
    read = embeddings([entry[0] for entry in part])
    whole = settings.extent != EXTENTS[0]
    positions = tuple(range(1, len(read)) if whole else sorted(set(itertools.chain.from_iterable(ranges))))
    own = read[list(positions)]
    noise = gaussian(own, positions, multiple=settings.multiple, draws=settings.traced + 1, seed=settings.seed)
    if not settings.replaced_by.strip():
        return noise
    swap = replacement(own, positions, embeddings(_reader(clip).word_ids(settings.replaced_by)))
    return Corruption(positions, torch.cat([swap.deltas, noise.deltas[:1]]), 0.0, settings.seed)


def _encode(clip: Clip, tokens: Mapping[str, Any]) -> Callable[[int], torch.Tensor]:
    def encode(rows: int) -> torch.Tensor:
        # ComfyUI encodes the parts of a long prompt side by side and joins them: equal parts are equal rows.
        repeated = {key: list(parts) * rows for key, parts in tokens.items()}
        entries = clip.encode_from_tokens_scheduled(repeated, show_pbar=False)
        return torch.cat([joined.reshape(rows, joined.shape[1] // rows, -1) for joined, _ in entries], 1)

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
