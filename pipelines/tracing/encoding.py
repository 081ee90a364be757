"""Several rows of one prompt through a pipeline's own text encoders at once, and what the image model is given of each.

The pipeline's ``encode_prompt`` is called with the prompt several times over, so that hooks can make the rows differ:
what it cuts off, joins, pads and skips is as it always is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from ...tracing.runs.readings import Reading
from ..opened import PipelineError
from .encoders import PipelineEncoder
from .kinds import PipelineKind
from .settings import TraceSettings


@dataclass(frozen=True)
class Encoding:
    """A prompt's rows as one tensor, and back.

    Attributes:
        pipe: the user's own; it is not changed.
        prompt: the text.
        shapes: of what the image model is given of one row, by its names.
        dtypes: of the same.
    """

    pipe: Any = field(repr=False)
    kind: PipelineKind
    settings: TraceSettings
    prompt: str
    shapes: Mapping[str, torch.Size]
    dtypes: Mapping[str, torch.dtype]

    @classmethod
    def of(
        cls, pipe: Any, kind: PipelineKind, settings: TraceSettings, readings: Sequence[Reading[PipelineEncoder]]
    ) -> Encoding:
        """Encode a prompt once, and see what is made of it.

        Raises:
            PipelineError: the pipeline gives a text encoder other tokens than were read of its tokenizer, or does not
                run it.
        """
        prompt, seen = readings[0].tokens.text, {}

        def watching(name: str) -> Any:
            def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                ids: Any = kwargs.get("input_ids", args[0] if args else None)
                seen[name] = tuple(ids[0].tolist())

            return before

        with ExitStack() as stack:
            for reading in readings:
                encoder = reading.encoder
                handle = encoder.module.register_forward_pre_hook(watching(encoder.attribute), with_kwargs=True)
                stack.callback(handle.remove)
            found = kind.encode(pipe, [prompt], settings, pipe._execution_device)
        for reading in readings:
            encoder = reading.encoder
            given = seen.get(encoder.attribute)
            if given != tuple(reading.given):
                raise PipelineError(
                    f"The pipeline gives {encoder.title} the tokens {given}; its tokenizer makes "
                    f"{tuple(reading.given)} of the prompt {prompt!r}. It cannot be traced."
                )
        return cls(
            pipe,
            kind,
            settings,
            prompt,
            {name: value.shape for name, value in found.items()},
            {name: value.dtype for name, value in found.items()},
        )

    def rows(self, count: int) -> torch.Tensor:
        """Encode the prompt as some rows, (count, numbers); hooks that are in place may make them differ."""
        found = self.kind.encode(self.pipe, [self.prompt] * count, self.settings, self.pipe._execution_device)
        return torch.cat([found[name].flatten(1).float() for name in self.shapes], dim=1)

    def given(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """What a pipeline is called with, of packed rows."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = rows.split(sizes, dim=1)
        return {
            name: part.reshape(len(rows), *self.shapes[name][1:]).to(self.dtypes[name])
            for name, part in zip(self.shapes, parts, strict=True)
        }
