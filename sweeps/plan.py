"""What a sweep traces: prompts, blocks of seeds, settings, the model; and the hash of all that changes a result."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import __version__
from ..text.marked import MARKED

SCHEMA = 1
_FIELDS = ("tracer", "model", "settings", "identity", "prompts", "seeds", "version")


class SweepError(ValueError):
    """A sweep that cannot be made, continued, joined or read; the message says what to do."""


@dataclass(frozen=True)
class Shard:
    """What one worker does at a time: one prompt with one block of seeds.

    Attributes:
        prompt: with the subject in [brackets].
        seeds: of the initial noise.
    """

    prompt: str
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name of its file: 20 hexadecimal digits of the SHA-256 of prompt and seeds."""
        return _sha256([self.prompt, list(self.seeds)])[:20] + ".trace.safetensors"


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep traces.

    Attributes:
        tracer: by what it is traced, a name of :data:`~.tracers.OPENERS`.
        model: the model's name or place; where it lies does not identify a sweep, ``identity`` does.
        settings: of the tracer; JSON values.
        identity: the model's content hashes, by what they are of.
        prompts: each with its subject in [brackets].
        seeds: blocks of seeds; each prompt with each block is a :class:`Shard`.
        version: of this library.

    Raises:
        SweepError: nothing to trace, a prompt without exactly one subject, something that stands twice, or settings
            that are no JSON values.
    """

    tracer: str
    model: str
    settings: Mapping[str, Any]
    identity: Mapping[str, str]
    prompts: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    version: str = __version__

    def __post_init__(self) -> None:
        if not self.prompts or not self.seeds or not all(self.seeds):
            raise SweepError("Nothing to trace: at least one prompt and one seed are needed.")
        for prompt in self.prompts:
            found = [subject for subject in re.findall(MARKED, prompt) if subject.strip()]
            if len(found) != 1 or prompt.count("[") != 1 or prompt.count("]") != 1:
                raise SweepError(
                    f"Found {len(found)} subjects in brackets in the prompt {prompt!r}; expected exactly one, such as: "
                    "a house by [van gogh]"
                )
        flat = [seed for block in self.seeds for seed in block]
        for what, entries in (("prompt", self.prompts), ("seed", flat)):
            twice = [entry for entry, count in Counter(entries).items() if count > 1]
            if twice:
                raise SweepError(f"The {what} {twice[0]!r} stands twice; each run counts once. Leave one out.")
        if any(type(seed) is not int or seed < 0 for seed in flat):
            raise SweepError(f"Seeds are whole numbers from 0; got {flat}.")
        try:
            object.__setattr__(self, "settings", json.loads(json.dumps(dict(self.settings), allow_nan=False)))
        except (TypeError, ValueError) as error:
            raise SweepError(f"The settings are no JSON values: {error}.") from error
        object.__setattr__(self, "identity", dict(self.identity))

    @property
    def hash(self) -> str:
        """SHA-256 of all that changes a shard's scores: tracer, settings, model and version. Prompts and seeds are in a
        shard's own name."""
        return _sha256([SCHEMA, self.tracer, self.settings, self.identity, self.version])

    def shards(self) -> Iterator[Shard]:
        """All shards, those of one prompt side by side."""
        for prompt, block in itertools.product(self.prompts, self.seeds):
            yield Shard(prompt, block)

    def require_same(self, other: SweepPlan, place: str) -> None:
        """Refuse a plan of which a shard would hold other scores (SweepError); ``place`` says where this one lies."""
        if self.hash == other.hash:
            return
        differing = [name for name in ("tracer", "version") if getattr(self, name) != getattr(other, name)]
        for what, mine, theirs in (
            ("settings", self.settings, other.settings),
            ("model", self.identity, other.identity),
        ):
            differing += [f"{what}: {key}" for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]
        raise SweepError(
            f"The sweep in {place} was made with other {', '.join(differing)}; its scores and new ones do not belong "
            "together. Give what it was made with, or name another folder."
        )

    def extended(self, prompts: Iterable[str], seeds: Iterable[Sequence[int]]) -> SweepPlan:
        """The plan with prompts and seeds that it lacks; no shard that it has is changed. Of a block, those seeds are
        added that are in no other one."""
        blocks = list(self.seeds)
        for block in map(tuple, seeds):
            known = {seed for other in blocks for seed in other}
            if block not in blocks and (fresh := tuple(seed for seed in block if seed not in known)):
                blocks.append(fresh)
        more = tuple(dict.fromkeys((*self.prompts, *prompts)))
        return dataclasses.replace(self, prompts=more, seeds=tuple(blocks))

    def merged(self, other: SweepPlan) -> SweepPlan:
        """The plan of both sweeps' prompts and seeds.

        Raises:
            SweepError: the plans are of different things, or their blocks of seeds overlap in part.
        """
        self.require_same(other, "the one folder")
        for mine, theirs in itertools.product(self.seeds, other.seeds):
            if mine != theirs and set(mine) & set(theirs):
                raise SweepError(
                    f"One sweep has the seeds {list(mine)} in a block, the other {list(theirs)}; blocks that overlap "
                    "in part cannot be merged, since runs would count twice."
                )
        return self.extended(other.prompts, other.seeds)

    def text(self) -> str:
        """The plan as JSON."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        return json.dumps({"schema": SCHEMA, **fields, "hash": self.hash}, indent=1, ensure_ascii=False)

    @classmethod
    def parsed(cls, text: str, place: str) -> SweepPlan:
        """The inverse of :meth:`text`.

        Raises:
            SweepError: damaged, or of a newer version.
        """
        try:
            found = json.loads(text)
            if not isinstance(found, dict) or type(found.get("schema")) is not int:
                raise SweepError("no format number")
            if found["schema"] > SCHEMA:
                raise SweepError(f"format {found['schema']} is of a newer version; this one reads {SCHEMA}")
            plan = cls(*(_checked(name, found.get(name)) for name in _FIELDS))
            if plan.hash != found.get("hash"):
                raise SweepError("its hash does not agree with what it says; was it edited?")
        except (ValueError, RecursionError) as error:
            raise SweepError(f"{place} is no plan of a sweep that can be read: {error}") from error
        return plan


def seed_blocks(seeds: Sequence[int], size: int) -> tuple[tuple[int, ...], ...]:
    """Seeds in blocks of ``size``, the last perhaps shorter.

    Raises:
        SweepError: the size is below one.
    """
    if size < 1:
        raise SweepError(f"A block holds at least one seed; got {size}.")
    return tuple(tuple(seeds[start : start + size]) for start in range(0, len(seeds), size))


def read_prompts(text: str) -> tuple[str, ...]:
    """Prompts of a text, one on each line; lines that are empty or begin with "#" are none."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _checked(name: str, value: Any) -> Any:
    """A field of a plan out of JSON."""
    if name in ("settings", "identity"):
        good = isinstance(value, dict) and (name == "settings" or all(isinstance(v, str) for v in value.values()))
    elif name == "prompts":
        good = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
        value = tuple(value) if good else value
    elif name == "seeds":
        good = isinstance(value, list) and all(isinstance(block, list) for block in value)
        value = tuple(map(tuple, value)) if good else value
    else:
        good = isinstance(value, str)
    if not good:
        raise SweepError(f"{name} is missing or of another type")
    return value
