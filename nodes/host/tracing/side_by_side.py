"""Several rows of one prompt through a CLIP's text encoders at once, each made into what a CONDITIONING holds.

ComfyUI encodes one prompt; its parts stand side by side in one batch of each text encoder. Here each encoder is given
the parts several times, so that hooks can make the rows differ, and ComfyUI's own code for the model then makes the
CONDITIONING of each row: what it joins, cuts off, pads and weighs is as it always is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..objects import Clip, Conditioning
from .encoders import TracedEncoder, other_modules

_POOLED = "pooled_output"
# (states, pooled vector) and perhaps a dictionary of more.
Output = tuple[Any, ...]


class EncodingError(RuntimeError):
    """A CLIP that does not run its text encoders as the tracer expects."""


@dataclass(frozen=True)
class Entry:
    """One entry of a prompt's CONDITIONING, for rows that share all but some tensors.

    Attributes:
        shapes: of one row's states (1, tokens, width), under "", and of its other tensors by their names.
        dtypes: of the same.
        options: what else stands in the entry, the same for all rows.
    """

    shapes: Mapping[str, torch.Size]
    dtypes: Mapping[str, torch.dtype]
    options: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Encoding:
    """A prompt's rows as one tensor, and back.

    Attributes:
        clip: the user's own; it is not changed.
        tokens: the prompt's, as ComfyUI cuts it.
        encoders: those whose rows may differ.
        entries: of the prompt's CONDITIONING. Hooks with a schedule give several.
        pooled: names of the encoders whose pooled vectors reach the CONDITIONING.
    """

    clip: Clip
    tokens: Mapping[str, Any] = field(repr=False)
    encoders: tuple[TracedEncoder, ...]
    entries: tuple[Entry, ...]
    pooled: frozenset[str]

    @classmethod
    def of(cls, clip: Clip, prompt: str, encoders: Sequence[TracedEncoder], *, every: bool = False) -> Encoding:
        """Encode a prompt once, and see what is made of it.

        Args:
            every: no other text encoder may read the prompt.

        Raises:
            EncodingError: ComfyUI does not run one of the encoders for this prompt, or not on its own tokens; or it
                runs another one.
        """
        tokens = clip.tokenize(prompt)
        seen = _Watched()
        rows = _encoded(clip, tokens, tuple(encoders), 1, seen)
        if every and seen.others:
            raise EncodingError(
                f"ComfyUI runs {seen.others} text encoder(s) more for the prompt {prompt!r} than the tracer knows the "
                "tokens of; they would stay as they are. Choose one encoder."
            )
        for encoder in encoders:
            given = seen.given.get(encoder.stream)
            if given is None:
                raise EncodingError(
                    f"ComfyUI does not run {encoder.title} for the prompt {prompt!r}, so that nothing of it can be "
                    "traced. Choose another encoder."
                )
            if given != len(tokens[encoder.stream]):
                raise EncodingError(
                    f"ComfyUI gives {encoder.title} {given} parts of the prompt {prompt!r}; its tokenizer makes "
                    f"{len(tokens[encoder.stream])}. It cannot be traced."
                )
        return cls(clip, tokens, tuple(encoders), tuple(map(_entry, rows)), frozenset(seen.pooled))

    def rows(self, count: int) -> torch.Tensor:
        """Encode the prompt as some rows; hooks that are in place may make them differ.

        Returns:
            (count, 1, numbers): all tensors of each row.
        """
        packed: list[list[torch.Tensor]] = [[] for _ in range(count)]
        for made, entry in zip(_encoded(self.clip, self.tokens, self.encoders, count), self.entries, strict=True):
            for row, tensors in zip(packed, _tensors(made.rows), strict=True):
                row += [tensors[name].reshape(-1).float() for name in entry.shapes]
        return torch.stack([torch.cat(row) for row in packed])[:, None]

    def conditioning(self, rows: torch.Tensor) -> Conditioning:
        """What a sampler is given of packed rows: a CONDITIONING whose tensors have as many rows."""
        made: Conditioning = []
        start = 0
        for entry in self.entries:
            tensors = {}
            for name, shape in entry.shapes.items():
                stop = start + math.prod(shape)
                tensors[name] = rows[:, 0, start:stop].reshape(len(rows), *shape[1:]).to(entry.dtypes[name])
                start = stop
            states = tensors.pop("")
            made.append([states, {**entry.options, **tensors}])
        return made


@dataclass
class _Rows:
    """One entry of a CONDITIONING: what ComfyUI put into it for the first row, and every row's own output."""

    options: dict[str, Any]
    rows: list[Output]


@dataclass
class _Watched:
    """What was seen while a prompt was encoded: parts given by stream, how many other encoders ran, and the names of
    those whose pooled vector matters."""

    given: dict[str, int] = field(default_factory=dict)
    others: int = 0
    pooled: set[str] = field(default_factory=set)


def _entry(made: _Rows) -> Entry:
    (tensors,) = _tensors(made.rows[:1], made.options)
    return Entry(
        {name: tensor.shape for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        {name: value for name, value in made.options.items() if name not in tensors},
    )


def _tensors(outputs: Sequence[Output], options: Mapping[str, Any] | None = None) -> list[dict[str, torch.Tensor]]:
    """The tensors of some outputs that rows may differ in: states, the pooled vector, and others of one row of floats.

    What an entry of the CONDITIONING does not hold (``options``) is left out.
    """
    found = []
    for states, pooled, *more in outputs:
        extra = {_POOLED: pooled, **(more[0] if more else {})}
        tensors = {"": states}
        for name, value in extra.items():
            floats = isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1
            if floats and len(value) == 1 and (options is None or name in options):
                tensors[name] = value
        found.append(tensors)
    return found


def _encoded(
    clip: Clip, tokens: Mapping[str, Any], encoders: Sequence[TracedEncoder], count: int, seen: _Watched | None = None
) -> list[_Rows]:
    model: Any = clip.cond_stage_model
    original = model.encode_token_weights
    outputs: list[list[Output]] = []

    def every_row(given: Mapping[str, Any], *args: Any, **kwargs: Any) -> Output:
        batches = [_Batch(encoder, len(given[encoder.stream]), count) for encoder in encoders]
        others = [_Once(module) for module in other_modules(clip, encoders)]
        with ExitStack() as stack:
            for one in (*batches, *others):
                stack.enter_context(_replaced(one.module, "encode", one.encode))
            rows = []
            for row in range(count):
                for one in (*batches, *others):
                    one.begin(row)
                rows.append(original(given, *args, **kwargs))
            if seen is not None and not outputs:
                _watch(seen, batches, others, rows[0], lambda: original(given, *args, **kwargs))
        outputs.append(rows)
        return rows[0]

    with _replaced(model, "encode_token_weights", every_row):
        entries = clip.encode_from_tokens_scheduled(tokens, show_pbar=False)
    return [_Rows(dict(options), rows) for (_, options), rows in zip(entries, outputs, strict=True)]


def _watch(
    seen: _Watched, batches: Sequence[_Batch], others: Sequence[_Once], plain: Output, again: Callable[[], Output]
) -> None:
    """Note what each encoder was given, and whether the CONDITIONING changes with its pooled vector."""
    seen.others = sum(bool(one.results) for one in others)
    for batch in batches:
        if not batch.results:
            continue
        seen.given[batch.encoder.stream] = batch.sections
        if not isinstance(batch.results[0][1], torch.Tensor):
            continue
        for one in (*batches, *others):
            one.begin(0)
        batch.moved = 1.0
        other = again()
        batch.moved = 0.0
        if isinstance(other[1], torch.Tensor) and not torch.equal(other[1], plain[1]):
            seen.pooled.add(batch.encoder.name)


class _Once:
    """In place of an encoder's own method, for an encoder in which all rows are the same: it runs once."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.results: list[Output] = []
        self._calls = 0
        self._encode = module.encode

    def begin(self, row: int) -> None:
        """Go back to the first call, for another row."""
        self._calls = 0

    def encode(self, parts: Sequence[Any]) -> Output:
        # Copies: ComfyUI weighs words in place.
        return _each(self._called(parts), lambda value: value.clone() if isinstance(value, torch.Tensor) else value)

    def _called(self, parts: Sequence[Any]) -> Output:
        call, self._calls = self._calls, self._calls + 1
        if call == len(self.results):
            self.results.append(self._encode(parts))
        return self.results[call]


class _Batch(_Once):
    """In place of an encoder's own method: the parts of a prompt several times over, and of the result each row's own.

    Behind the prompt's parts may stand an empty one, from which ComfyUI weighs words; the rows share it.

    Attributes:
        sections: how many parts the prompt has.
        moved: what is added to the pooled vector.
    """

    def __init__(self, encoder: TracedEncoder, sections: int, rows: int) -> None:
        super().__init__(encoder.module)
        self.encoder, self.sections, self.moved = encoder, sections, 0.0
        self._rows, self._row = rows, 0

    def begin(self, row: int) -> None:
        super().begin(row)
        self._row = row

    def encode(self, parts: Sequence[Any]) -> Output:
        own, rest = list(parts[: self.sections]), list(parts[self.sections :])
        first, behind = self._row * len(own), self._rows * len(own)
        places = [*range(first, first + len(own)), *range(behind, behind + len(rest))]

        def of_row(value: Any) -> Any:
            whole = isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == behind + len(rest)
            return value[places] if whole else value

        states, pooled, *more = _each(self._called([*own * self._rows, *rest]), of_row)
        return (states, pooled + self.moved if self.moved else pooled, *more)


def _each(output: Output, change: Callable[[Any], Any]) -> Output:
    """An encoder's output with each of its tensors changed."""
    states, pooled, *more = output
    return (change(states), change(pooled), *({name: change(value) for name, value in one.items()} for one in more))


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Within the context, an object has another method."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
