"""The text encoders of ComfyUI's CLIP objects, as the tracer sees them: their modules, layers, tokenizers and names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ....families.sites import Site, SiteError
from ....families.text_stacks import TextStack, encoder_names, output_sites, text_stack
from ....tracing.runs.corruption import ALL_ENCODERS
from ..editing.text_encoder import UnsupportedEncoderError
from ..objects import Clip
from ..prompt_parts import EMBEDDING

# Alone, as in Stable Diffusion 1.x and 2.x, these need no name, and no image model reads their pooled vector.
_ALONE = ("clip_l", "clip_h")


@dataclass(frozen=True)
class TracedEncoder:
    """One text encoder of a CLIP.

    Attributes:
        name: as it stands in the names of its sites: "l", "t5", "qwen"; "" for the only one of Stable Diffusion 1.x or
            2.x.
        module: ComfyUI's; it is given token ids and returns states, and perhaps a pooled vector.
        own: its tokenizer.
        stream: the name of its tokens among those of a prompt.
        stack: its layers.
    """

    name: str
    module: Any
    own: Any
    stream: str
    stack: TextStack

    @property
    def taps(self) -> tuple[int, ...]:
        """The layers whose inputs are handed on side by side, where there are several."""
        layer = self.module.layer
        count = len(self.stack.layers)
        if layer == "all":
            return tuple(range(count + 1))
        return tuple(sorted({one for one in layer if 0 <= one <= count})) if isinstance(layer, list) else ()

    @property
    def title(self) -> str:
        """The encoder, in messages."""
        return f"the text encoder {self.name or self.stream}"

    def sites(self, *, pooled: bool = False) -> tuple[Site, ...]:
        """Its sites in running order.

        Args:
            pooled: whether its pooled vector is read.
        """
        return (*self.stack.sites(self.name), *output_sites(self.module, self.name, self.taps, pooled=pooled))

    def embeddings(self, tokens: Sequence[Any], device: torch.device) -> torch.Tensor:
        """The embeddings (tokens, width) of token ids and vectors, as the encoder is given them; fp32, on the CPU."""
        # The table may lie on the CPU when the encoder does not; ComfyUI brings it to where its input is.
        embeddings: torch.Tensor = self.module.process_tokens([list(tokens)], device)[0][0]
        return embeddings.float().cpu()


def open_encoders(clip: Clip, prompt: str, choice: str = ALL_ENCODERS) -> tuple[TracedEncoder, ...]:
    """The text encoders of a CLIP that have tokens for a prompt, or one of them.

    Args:
        prompt: HunyuanImage's ByT5 reads quoted words alone.
        choice: a name of :data:`~.families.text_stacks.ENCODER_NAMES`, or :data:`ALL_ENCODERS`.

    Raises:
        UnsupportedEncoderError: the CLIP has none that ComfyUI runs in a known way, none of that name, or one that is
            asked for has layers of an unknown shape.
    """
    modules = _modules(clip)
    if not modules:
        raise UnsupportedEncoderError(
            f"This CLIP cannot be traced: found {type(clip.cond_stage_model).__name__}, which holds no text encoder "
            "that ComfyUI runs on token ids (a module with transformer, encode and process_tokens)."
        )
    names = ("",) if len(modules) == 1 and modules[0][0] in _ALONE else encoder_names([name for name, _ in modules])
    asked = [(name, *found) for name, found in zip(names, modules, strict=True) if _is_asked(choice, name, found[0])]
    if not asked:
        there = ", ".join(name or modules[0][0].removeprefix("clip_") for name in names)
        raise UnsupportedEncoderError(
            f"This CLIP has no text encoder {choice!r}: found {there}. Choose one of these, or {ALL_ENCODERS!r}."
        )
    # Embeddings make no stream; one without a name is told where the prompt is read.
    streams = tuple(clip.tokenize(prompt.replace(EMBEDDING, " ")))
    opened = (_opened(clip, streams, *one) for one in asked)
    found = tuple(one for one in opened if one is not None)
    if not found:
        raise UnsupportedEncoderError(
            f"The text encoder {asked[0][1]} of this CLIP has no tokens for the prompt {prompt!r}: found tokens for "
            f"{', '.join(streams) or 'none'}. It does not read this prompt; choose another encoder."
        )
    return found


def _modules(clip: Clip) -> list[tuple[str, Any]]:
    needed = ("transformer", "encode", "process_tokens", "layer")
    children = clip.cond_stage_model.named_children()
    return [(name, child) for name, child in children if all(hasattr(child, part) for part in needed)]


def other_modules(clip: Clip, encoders: Sequence[TracedEncoder]) -> list[Any]:
    """The modules of a CLIP's other text encoders."""
    known = [encoder.module for encoder in encoders]
    return [module for _, module in _modules(clip) if not any(module is one for one in known)]


def _is_asked(choice: str, name: str, child: str) -> bool:
    return choice in (ALL_ENCODERS, name) or (not name and choice == child.removeprefix("clip_"))


def _opened(clip: Clip, streams: Sequence[str], name: str, child: str, module: Any) -> TracedEncoder | None:
    """An encoder; None where no stream of tokens is its own."""
    own_stream = next((one for one in streams if child in (one, f"clip_{one}")), None)
    stream = own_stream or next((one for one in streams if child.startswith(one)), None)
    own = None if stream is None else _tokenizer(clip.tokenizer, child, stream)
    if stream is None or own is None:
        return None
    try:
        stack = text_stack(module.transformer)
    except SiteError as error:
        raise UnsupportedEncoderError(
            f"The text encoder {child} of this CLIP cannot be traced. {error} Choose another encoder; this one then "
            "stays as it is."
        ) from error
    return TracedEncoder(name, module, own, stream, stack)


def _tokenizer(owner: Any, child: str, stream: str) -> Any:
    """ComfyUI's tokenizer of an encoder: under the encoder's name, or that of its tokens."""
    own = next((getattr(owner, name) for name in (child, stream, f"clip_{stream}") if hasattr(owner, name)), None)
    # A few wrap one more of their own kind.
    return own if own is None or hasattr(own, "tokenizer") else None
