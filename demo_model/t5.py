"""The text encoders of Shapes DiT outside ComfyUI: a bidirectional T5, and CLIP's text tower for the pooled vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from ..text.other_tokenizers import TokenizerError, find_tokenizer
from ..text.vocabulary import clip_tokenizer
from .architecture import CONTEXT_LENGTH, EOS, SHAPES_DIT, T5_PAD, FluxArchitecture
from .weights import load_part, tokenize

TOKENIZER = Path("comfy", "text_encoders", "t5_tokenizer", "tokenizer.json")
"""Where ComfyUI keeps T5's vocabulary, in its own folder."""

CLIP_PREFIX, T5_PREFIX = "text_l.text_model.", "t5."
"""What the names of the encoders' weights begin with in their parts."""


class T5Tokenizer:
    """T5's tokenizer by the library tokenizers, called like transformers'. Each text ends in the end token, id 1.

    Args:
        folders: ComfyUI folders to look for the vocabulary in, beside that whose ``custom_nodes`` this pack lies in.

    Raises:
        FileNotFoundError: none of them has it.
    """

    def __init__(self, *folders: Path | str) -> None:
        try:
            self._tokenize = find_tokenizer("t5", *folders)
        except TokenizerError as error:
            roots = [*map(Path, folders), Path(__file__).parents[3]]
            raise FileNotFoundError(
                f"No T5 vocabulary found (looked for {TOKENIZER} in: {', '.join(map(str, roots))}). It is part of "
                "ComfyUI: put the pack into its custom_nodes, or run this by scripts/bootstrap.py."
            ) from error

    def __call__(self, texts: str | Sequence[str]) -> dict[str, Any]:
        """``input_ids`` of a text, or of each of several."""
        if isinstance(texts, str):
            return {"input_ids": self._tokenize(texts)}
        return {"input_ids": [self._tokenize(text) for text in texts]}


class DiTTexts(torch.nn.Module):
    """Both text encoders and their tokenizers.

    The T5 encoder reads pads like words, as Flux.1's does. Its table of embeddings has one name.
    """

    def __init__(self, architecture: FluxArchitecture = SHAPES_DIT) -> None:
        super().__init__()
        self._length = architecture.length
        self._tokenizers = clip_tokenizer(), T5Tokenizer()
        self.clip = CLIPTextModel(CLIPTextConfig(**architecture.clip.config))
        self.t5 = T5EncoderModel(T5Config(**architecture.t5))
        self.t5.encoder.register_module("embed_tokens", None)

    def load_clip(self, part: Mapping[str, torch.Tensor]) -> None:
        """Take the text tower out of the part ``clip``."""
        # transformers 5 dropped the "text_model." level from this class; it is the same module underneath.
        inner = getattr(self.clip, "text_model", self.clip)
        inner.load_state_dict(_behind(CLIP_PREFIX, part))

    def load_t5(self, part: Mapping[str, torch.Tensor]) -> None:
        """Take the part ``t5``."""
        self.t5.load_state_dict(_behind(T5_PREFIX, part))

    def tokens(self, texts: Sequence[str]) -> torch.Tensor:
        """T5's token ids (n, length) of texts, with pads behind the end token.

        Raises:
            ValueError: a text has more tokens than the miniature was trained on.
        """
        rows = self._tokenizers[1](list(texts))["input_ids"]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > self._length:
                raise ValueError(
                    f"The prompt {text[:60]!r} has {len(row)} T5 tokens; Shapes DiT reads {self._length}. Shorten it."
                )
        return torch.tensor([row + [T5_PAD] * (self._length - len(row)) for row in rows])

    def states(self, tokens: torch.Tensor) -> torch.Tensor:
        """T5's last states (n, length, width) of token ids (n, length)."""
        states: torch.Tensor = self.t5(inputs_embeds=self.t5.shared(tokens)).last_hidden_state
        return states

    def pooled(self, texts: Sequence[str]) -> torch.Tensor:
        """CLIP's states (n, width) at the end token, behind the last norm and not projected."""
        tokens = tokenize(self._tokenizers[0], texts, length=CONTEXT_LENGTH)
        ends = (tokens == EOS).int().argmax(1)
        pooled: torch.Tensor = self.clip(input_ids=tokens).last_hidden_state[torch.arange(len(ends)), ends]
        return pooled

    def condition(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the transformer reads of texts: states (n, length, width), pooled vectors (n, width)."""
        return self.states(self.tokens(texts)), self.pooled(texts)


def load_texts(architecture: FluxArchitecture = SHAPES_DIT) -> DiTTexts:
    """The shipped text encoders, frozen, in fp32 on the CPU.

    Raises:
        FileNotFoundError: weights or a vocabulary are missing.
    """
    texts = DiTTexts(architecture).eval().requires_grad_(False)
    texts.load_clip(load_part("clip", architecture.folder))
    texts.load_t5(load_part("t5", architecture.folder))
    return texts


def _behind(prefix: str, part: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in part.items() if name.startswith(prefix)}
