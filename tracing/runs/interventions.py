"""Interventions: context managers that copy rows of a batch while a model runs, and leave nothing behind.

One batch holds every run that is compared (*lockstep*): a clean row, corrupted rows, restored rows. To restore a site
is to copy the clean row's output into the row that restores it, while both are being computed; no activation is kept.
Severing is the same copy from a corrupted row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...families.sites import Head, Site, Span

# Row of the plan -> its places in the batch of the forward pass that is running, in an order common to all rows.
RowIndex = Callable[[int], Sequence[int]]


# Names by which cross-attentions are given the text and what belongs to it, row by row.
_TEXT_ARGUMENTS = ("context", "value", "encoder_hidden_states", "attention_mask", "mask")
# By what keyword arguments modules are given token embeddings, or what they have become by layer 0.
_EMBEDDINGS = ("embeds", "hidden_states", "x")


class InterventionError(RuntimeError):
    """A site that did not run, or whose output cannot be restored."""


@dataclass(frozen=True)
class Patch:
    """Copy what a site computes for one row of the batch into another row.

    Attributes:
        site: the site's name.
        row: the row that is changed.
        donor: the row that it is taken from: the clean one to restore, a corrupted one to sever.
        positions: token positions (index of the second axis) that are copied; None for all of them.
        steps: the sampling steps at which to copy, as a range of step numbers; None for all of them.
    """

    site: str
    row: int
    donor: int
    positions: tuple[int, ...] | None = None
    steps: range | None = None


def same_row(row: int) -> Sequence[int]:
    """The row index of a batch that holds nothing but the rows of the plan."""
    return (row,)


@contextmanager
def patching(
    sites: Mapping[str, Site],
    patches: Sequence[Patch],
    *,
    index: RowIndex = same_row,
    step: Callable[[], int | None] = lambda: None,
    must_run: bool = True,
) -> Iterator[None]:
    """Within the context, forward passes of the sites' modules carry out the patches.

    Args:
        sites: the sites by name; patches of the same site are done in order.
        index: where a row stands in the batch. Patches of rows that are not in the pass are left out.
        step: the number of the sampling step that runs; asked at each pass.
        must_run: raise at the end when a site that was to be patched never ran.

    Raises:
        KeyError: a patch names an unknown site.
        InterventionError: a site never ran (a compiled or cached model skips modules), or gave no tensor of rows.
    """
    by_site: dict[str, list[Patch]] = {}
    for patch in patches:
        by_site.setdefault(patch.site, []).append(patch)
    ran: set[str] = set()
    with ExitStack() as stack:
        positions = measured_positions(stack, [sites[name] for name in by_site])
        for name, todo in by_site.items():
            site = sites[name]
            handle = (
                _hook(site, todo, index, step, ran, positions)
                if site.head is None
                else _head_hook(site, site.head, todo, index, step, ran)
            )
            stack.callback(handle.remove)
        yield
    silent = [name for name in by_site if name not in ran]
    if must_run and silent:
        raise InterventionError(
            f"{len(silent)} of {len(by_site)} sites never ran, the first is {silent[0]}. Compiled models, attention "
            "replacements and step caches skip modules; trace the plain model."
        )


def measured_positions(stack: ExitStack, sites: Sequence[Site]) -> Callable[[Site], slice]:
    """What gives the positions of a site's output that are meant, of the pass that runs."""
    lengths: dict[Span, int] = {}

    def measure(span: Span) -> None:
        def on_output(module: nn.Module, args: Any, output: Any) -> None:
            lengths[span] = output_of(output, span.output).shape[1]

        stack.callback(span.gauge.register_forward_hook(on_output).remove)

    for span in dict.fromkeys(site.span for site in sites if site.span is not None):
        measure(span)

    def positions(site: Site) -> slice:
        if site.span is None:
            return slice(None)
        if site.span not in lengths:
            raise InterventionError(f"{site.name} ran before the text's length was known; trace the plain model.")
        return slice(None, lengths[site.span]) if site.span.text else slice(lengths[site.span], None)

    return positions


def output_of(output: Any, number: int | str) -> Any:
    """One of a module's outputs, by place or by name; a module that gives a single tensor has no other."""
    if isinstance(number, str):
        return output.get(number) if isinstance(output, Mapping) else None
    if isinstance(output, tuple):
        return output[number] if number < len(output) else None
    return output if not number else None


def _with_output(output: Any, number: int | str, value: Any) -> Any:
    """A module's outputs with one of them in another's place."""
    if isinstance(number, str):
        return type(output)(**{**output, number: value})
    return (*output[:number], value, *output[number + 1 :]) if isinstance(output, tuple) else value


def _hook(
    site: Site,
    todo: Sequence[Patch],
    index: RowIndex,
    step: Callable[[], int | None],
    ran: set[str],
    positions: Callable[[Site], slice],
) -> torch.utils.hooks.RemovableHandle:
    def changed(value: Any) -> Any:
        # Indices and masks of integers are no rows of states.
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            return value
        ran.add(site.name)
        if site.slot is None:
            return _copied(value, todo, index, step(), positions(site))
        part = value[:, site.slot]
        if (copied := _copied(part, todo, index, step(), slice(None))) is part:
            return value
        # A copy: what a module returns may be used elsewhere.
        value = value.clone()
        value[:, site.slot] = copied
        return value

    def on_output(module: nn.Module, args: Any, output: Any) -> Any:
        found = output_of(output, site.output)
        if not isinstance(found, torch.Tensor):
            raise InterventionError(f"{site.name} gave {type(found).__name__}; expected a tensor of rows.")
        return _with_output(output, site.output, changed(found))

    def on_context(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # A cross-attention is given its queries first, then the text, as keys and perhaps again as values. Tables of
        # positions stand beside them in some models.
        given = {name: changed(value) if name in _TEXT_ARGUMENTS else value for name, value in kwargs.items()}
        return (*args[:1], *map(changed, args[1:])), given

    if site.kind == "cross_context":
        return site.module.register_forward_pre_hook(on_context, with_kwargs=True)
    # Before those that stand: transformers' own hook on a layer hands on what it sees as the hidden state.
    return site.module.register_forward_hook(on_output, prepend=True)


def _head_hook(
    site: Site, head: Head, todo: Sequence[Patch], index: RowIndex, step: Callable[[], int | None], ran: set[str]
) -> torch.utils.hooks.RemovableHandle:
    """As :func:`_hook`, for some columns of what the site's module is given."""

    def before(module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:
        ran.add(site.name)
        part = args[0][..., head.columns]
        if (copied := _copied(part, todo, index, step(), slice(None))) is part:
            return None
        mixed = args[0].clone()
        mixed[..., head.columns] = copied
        return (mixed, *args[1:])

    return site.module.register_forward_pre_hook(before)


def _copied(
    tensor: torch.Tensor, todo: Sequence[Patch], index: RowIndex, now: int | None, within: slice
) -> torch.Tensor:
    """What a site computed, with the patches of a step done; ``within`` is of the positions that are the site's."""
    whole, out = within == slice(None), None
    for patch in todo:
        if patch.steps is not None and now not in patch.steps:
            continue
        for place, donor in zip(index(patch.row), index(patch.donor), strict=True):
            # A copy: what a module returns may be the stream itself, which earlier layers' outputs alias.
            out = tensor.clone() if out is None else out
            if patch.positions is None and whole:
                out[place] = tensor[donor]
            elif patch.positions is None:
                out[place, within] = tensor[donor, within]
            else:
                where = list(patch.positions)
                out[place, where] = tensor[donor, where]
    return tensor if out is None else out


@contextmanager
def adding(
    entry: nn.Module,
    deltas: Mapping[int, torch.Tensor],
    positions: Sequence[int],
    *,
    index: RowIndex = same_row,
) -> Iterator[None]:
    """Within the context, token embeddings of some rows are shifted before a text encoder's layers run.

    Args:
        entry: the encoder's layer 0, or the module that holds its layers and is given ``embeds``
            (:attr:`~.families.text_stacks.TextStack.entry`). CLIP's positions have been added by then.
        deltas: row to the shift (len(positions), width) of its embeddings.
        positions: the token positions that are shifted.

    Raises:
        InterventionError: while the encoder runs: it is given no embeddings.
    """
    where = list(positions)

    def shifted(stream: torch.Tensor) -> torch.Tensor:
        stream = stream.clone()
        for row, delta in deltas.items():
            for place in index(row):
                stream[place, where] += delta.to(stream)
        return stream

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for name in _EMBEDDINGS:
            if isinstance(kwargs.get(name), torch.Tensor):
                return args, {**kwargs, name: shifted(kwargs[name])}
        if args and isinstance(args[0], torch.Tensor) and args[0].is_floating_point():
            return (shifted(args[0]), *args[1:]), kwargs
        raise InterventionError(f"{type(module).__name__} was given no token embeddings that could be corrupted.")

    handle = entry.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
