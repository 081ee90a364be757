"""A pipeline's text encoders as the tracer sees them, and a prompt as each of them reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...families.sites import Site, SiteError
from ...families.text_stacks import TextStack, text_stack
from ...text.prompts import PromptTokenizer
from ...text.subjects import find_subject
from ...tracing.runs.corruption import ALL_ENCODERS
from ...tracing.runs.readings import Reading, read_row, shown_token
from ..opened import PipelineError
from .kinds import PipelineKind


@dataclass(frozen=True)
class PipelineEncoder:
    """One text encoder of a pipeline.

    Attributes:
        name: as it stands in the names of its sites; "" for the only one.
        attribute: what the pipeline calls it.
        module: transformers'.
        tokenizer: its own.
        stack: its layers.
        length: how many tokens the pipeline gives it.
        pooled: whether its pooled vector is read.
    """

    name: str
    attribute: str
    module: nn.Module = field(repr=False)
    tokenizer: Any = field(repr=False)
    stack: TextStack = field(repr=False)
    length: int
    pooled: bool = False

    @property
    def title(self) -> str:
        """The encoder, in messages."""
        return f"the pipeline's {self.attribute}"

    def sites(self) -> tuple[Site, ...]:
        """Its sites in running order; the pooled vector's last."""
        if not self.pooled:
            return self.stack.sites(self.name)
        name = f"text.{self.name}.pooled"
        projection = getattr(self.module, "text_projection", None)
        if projection is not None:
            return (*self.stack.sites(self.name), Site(name, "pooled", projection))
        return (*self.stack.sites(self.name), Site(name, "pooled", self.module, output="pooler_output"))

    def embeddings(self, tokens: Sequence[Any], device: torch.device) -> torch.Tensor:
        """The embeddings (tokens, width) of token ids; fp32, on the CPU."""
        module: Any = self.module
        table = module.get_input_embeddings()
        ids = torch.tensor(list(tokens), device=table.weight.device)
        found: torch.Tensor = table(ids)
        return found.detach().float().cpu()

    def read(self, prompt: str, subject: str, replaced_by: str = "") -> Reading[PipelineEncoder]:
        """A prompt and its subject.

        Raises:
            PromptError: a prompt that is too long.
            SubjectError: the subject is not in the prompt.
        """
        words = replaced_by.strip()
        if self.stack.shape != "clip":
            return read_row(self, prompt, subject, words, self._row, self._unreadable, self._label)
        reader = PromptTokenizer(self.tokenizer, pad_token=self._pad, context_length=self.length)
        tokens = reader.tokenize(prompt)
        found = find_subject(tokens, subject, reader)
        pieces = self.tokenizer.convert_ids_to_tokens(list(tokens.body))
        labels = ("<start>", *(piece.removesuffix("</w>") for piece in pieces), "<end>")
        others = (tuple(reader.word_ids(words)),) * len(found) if words else ()
        return Reading(self, tokens.ids, tokens, found, labels, others=others)

    @property
    def _pad(self) -> int:
        own = self.tokenizer
        return int(own.pad_token_id if own.pad_token_id is not None else own.eos_token_id)

    def _row(self, text: str) -> tuple[tuple[int, ...], list[int]]:
        """The ids of a prompt with their padding, and the positions of those that are none."""
        ids = list(self.tokenizer(text)["input_ids"])
        if len(ids) > self.length:
            raise PipelineError(
                f"The prompt has {len(ids)} tokens in {self.title}, and the pipeline reads {self.length}. Shorten it, "
                f"or raise max_sequence_length: {text!r}"
            )
        kept = [place for place, token in enumerate(ids) if token != self._pad] or [0]
        return (*ids, *[self._pad] * (self.length - len(ids))), kept

    @property
    def _unreadable(self) -> frozenset[int]:
        unknown = self.tokenizer.unk_token_id
        return frozenset() if unknown is None or unknown == self._pad else frozenset({int(unknown)})

    def _label(self, token: int) -> str:
        return shown_token(self.tokenizer.decode([token]), lambda: self.tokenizer.convert_ids_to_tokens([token])[0])


def open_encoders(pipe: Any, kind: PipelineKind, length: int | None, choice: str) -> tuple[PipelineEncoder, ...]:
    """The text encoders of a pipeline that a subject is hidden in.

    Args:
        length: T5's tokens.
        choice: the name of one of them, or "all".

    Raises:
        PipelineError: there is none, none of that name, or one whose layers are of an unknown shape.
    """
    opened = tuple(_opened(pipe, kind, end, name, length) for end, name in kind.encoders if _there(pipe, end))
    if not opened:
        raise PipelineError(f"{kind.name} holds no text encoder with its tokenizer; load it with its text encoders.")
    found = tuple(one for one in opened if choice in (ALL_ENCODERS, one.name))
    if not found:
        there = ", ".join(one.name or "all" for one in opened)
        raise PipelineError(f"{kind.name} has no text encoder {choice!r}; choose {there} or {ALL_ENCODERS}.")
    return found


def _there(pipe: Any, end: str) -> bool:
    return all(getattr(pipe, f"{part}{end}", None) is not None for part in ("text_encoder", "tokenizer"))


def _opened(pipe: Any, kind: PipelineKind, end: str, name: str, length: int | None) -> PipelineEncoder:
    module, tokenizer = getattr(pipe, f"text_encoder{end}"), getattr(pipe, f"tokenizer{end}")
    try:
        stack = text_stack(module)
    except SiteError as error:
        raise PipelineError(f"text_encoder{end} cannot be traced. {error}") from error
    if stack.shape == "clip":
        length = min(int(tokenizer.model_max_length), int(module.config.max_position_embeddings))
    assert length is not None
    return PipelineEncoder(name, f"text_encoder{end}", module, tokenizer, stack, length, name in kind.pooled)
