"""Attribution patching: every cell of a causal trace at once, estimated by gradients.

Restoring a site moves its output a by a_clean - a_corrupted; to first order the score s moves by

    (a_clean - a_corrupted) . ds/da

taken at the corrupted run. The sampling run is done once without gradients, each of its steps once more with them, and
each is followed backwards: about three passes for all sites, steps and tokens, where a trace needs one for each cell.
The estimate is right where the rest of the model is linear between the two runs, and it is a guess where attention
saturates: check it against a trace before leaning on it (``comparison.rank_correlation``). Cells of several sites or
steps are sums over them, which count what one of them does through another twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ...families.sites import Site
from ..results.trace import CausalTrace, TraceError
from .cases import Case, Spots, spots_in
from .interventions import adding
from .lockstep import Score
from .plan import Plan


class Sampling(Protocol):
    """A deterministic sampler, one differentiable step at a time."""

    steps: int

    def start(self, seed: int, rows: int) -> torch.Tensor:
        """The seed's initial latent, the same in each of some rows."""
        ...

    def advance(self, latents: torch.Tensor, step: int, states: torch.Tensor) -> torch.Tensor:
        """The latents (rows, ...) after a step, given the rows' text states (rows, tokens, width)."""
        ...

    def index(self, row: int, rows: int) -> Sequence[int]:
        """Where the row's own (conditional) pass stands in the batch that ``advance`` gives the UNet."""
        ...


@torch.enable_grad()
def attribute(
    cases: Sequence[Case],
    plan: Plan,
    sampling: Sampling,
    score: Score,
    *,
    score_name: str,
    points: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> CausalTrace:
    """Estimate the indirect effects of a plan's cells.

    Args:
        cases: the prompts. ``encode`` must be differentiable: no ``no_grad`` inside.
        plan: as for :func:`~.lockstep.sweep`; a window's effect is the sum of its sites'. ``sever`` and ``controls``
            are not estimated.
        score: differentiable; larger is nearer to the prompt. It is given latents (rows, ...).
        points: gradients are averaged over that many strengths of the corruption, from whole towards none
            (integrated gradients); 1 is attribution patching. Cost and memory grow with it.

    Returns:
        A trace whose clean and corrupted scores are measured and whose restored scores are the corrupted ones plus the
        estimated effect; it has no controls.

    Raises:
        TraceError: ``points`` below one, a plan with ``sever`` or with sites that are a part of what a module gives, or
            a run through which no gradient flows.
    """
    _require_estimable(cases, plan, points)
    shape = (len(cases), len(plan.seeds))
    clean, corrupted = torch.empty(shape), torch.empty(*shape, plan.draws)
    effects = torch.empty(*shape, plan.draws, len(plan.groups), len(plan.columns))
    runs = itertools.product(enumerate(cases), enumerate(plan.seeds), range(plan.draws))
    for (p, case), (s, seed), draw in runs:
        scores, by_site = _attribute_run(case, plan, sampling, score, seed, draw, points)
        clean[p, s], corrupted[p, s, draw] = scores
        effects[p, s, draw] = _cells(plan, case, by_site)
    return _trace(cases, plan, clean, corrupted, effects, score_name, {**(settings or {}), "estimate": _named(points)})


def _require_estimable(cases: Sequence[Case], plan: Plan, points: int) -> None:
    """Refuse what gradients do not reach; see :func:`attribute`."""
    if points < 1:
        raise TraceError(f"Gradients are taken at one point or more; got {points}.")
    if any(len(case.shares) > 1 for case in cases):
        raise TraceError("Gradients are taken in one text encoder; trace the sites of several.")
    if not plan.restores:
        raise TraceError("Runs that read other text are not estimated by gradients; trace them.")
    if plan.sever is not None:
        raise TraceError("Severed runs cannot be estimated by gradients; trace them.")
    partial = [
        site.name
        for group in plan.groups
        for site in group
        if site.output or site.slot is not None or site.span is not None or site.head is not None
    ]
    if partial:
        raise TraceError(
            f"Gradients estimate sites that are all of what a module gives; {partial[0]} is a part of it. Trace it."
        )


def _named(points: int) -> str:
    return f"gradients at {points} point{'s' * (points > 1)}"


def _trace(
    cases: Sequence[Case],
    plan: Plan,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    effects: torch.Tensor,
    score_name: str,
    settings: dict[str, Any],
) -> CausalTrace:
    """A trace of estimated ``effects`` (P, S, D, L, K), without controls."""
    return CausalTrace(
        component=plan.component,
        sites=plan.names(),
        columns=plan.columns,
        column_axis="token" if plan.component == "text" else "step",
        prompts=tuple(case.prompt for case in cases),
        subjects=tuple(case.subject for case in cases),
        seeds=plan.seeds,
        draws=plan.draws,
        clean=clean,
        corrupted=corrupted,
        restored=corrupted[..., None, None] + effects,
        control=torch.empty(*corrupted.shape, 0),
        score=score_name,
        settings=settings,
    )


def _attribute_run(
    case: Case,
    plan: Plan,
    sampling: Sampling,
    score: Score,
    seed: int,
    draw: int,
    points: int,
) -> tuple[tuple[float, float], dict[str, torch.Tensor]]:
    """Clean and corrupted score of one run, and each site's effect by token (text) or by step (UNet).

    Rows: the clean one, the corrupted one, and weaker corruptions where there are several points.
    """
    rows = 1 + points
    sites = [site for site in plan.sites if any(site in group for group in plan.groups)]
    (share,) = case.shares
    noise = share.corruption.deltas[draw].clone().requires_grad_()
    deltas = {1 + point: noise * (1 - point / points) for point in range(points)}
    inside = sites if plan.component == "text" else []
    with adding(share.entry, deltas, share.corruption.positions, index=share.index), recording(inside) as seen:
        states = case.encode(rows)
    if not states.requires_grad:
        raise TraceError("No gradient flows through the text encoder: its encoding runs without gradients.")
    given = states.detach().requires_grad_()
    latents = _forward(sampling, given, seed, rows)
    scores, slope = _score_slope(score, latents[-1], case.prompt)
    by_site: dict[str, torch.Tensor] = {}
    toward_states = torch.zeros_like(given)
    for step in reversed(range(sampling.steps)):
        before = latents[step].requires_grad_()
        with recording(sites if plan.component == "unet" else []) as outputs:
            after = sampling.advance(before, step, given)
        slope, state_slope, *site_slopes = _slopes(after, slope, [before, given, *outputs.values()])
        toward_states += state_slope
        for (name, output), site_slope in zip(outputs.items(), site_slopes, strict=True):
            effect = sum(
                _effect(output, site_slope, [sampling.index(row, rows) for row in range(rows)], part).sum()
                for part in range(len(sampling.index(0, rows)))
            )
            by_site.setdefault(name, torch.zeros(sampling.steps))[step] = effect
    if plan.component == "text":
        places = [share.index(row) for row in range(rows)]
        for (name, output), site_slope in zip(
            seen.items(), _slopes(states, toward_states, list(seen.values())), strict=True
        ):
            by_site[name] = _effect(output, site_slope, places, 0).sum(-1).cpu()
    return scores, by_site


def _forward(sampling: Sampling, states: torch.Tensor, seed: int, rows: int) -> list[torch.Tensor]:
    """The latents before each step and at the end."""
    latents = [sampling.start(seed, rows)]
    with torch.no_grad():
        for step in range(sampling.steps):
            latents.append(sampling.advance(latents[-1], step, states))
    return latents


def _score_slope(score: Score, latents: torch.Tensor, prompt: str) -> tuple[tuple[float, float], torch.Tensor]:
    """Scores of the clean and of the corrupted row, and the gradient of the corrupted rows' mean score."""
    final = latents.detach().requires_grad_()
    values = score(final, latents[:1].detach(), prompt)
    if not values.requires_grad:
        raise TraceError("No gradient flows through the score; choose one that is made of differentiable functions.")
    (slope,) = torch.autograd.grad(values[1:].mean(), final)
    slope[0] = 0
    clean, corrupted = values[:2].tolist()
    return (clean, corrupted), slope


def _slopes(output: torch.Tensor, slope: torch.Tensor, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    found = torch.autograd.grad(output, inputs, slope, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]


def _effect(output: torch.Tensor, slope: torch.Tensor, places: Sequence[Sequence[int]], part: int) -> torch.Tensor:
    """(clean - corrupted) * slope of all corrupted rows, elementwise, for one of the places that a row has."""
    clean, corrupted, *_ = (place[part] for place in places)
    toward = sum(slope[place[part]] for place in places[1:])
    return ((output[clean] - output[corrupted]) * toward).detach()


def _cells(plan: Plan, case: Case, by_site: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Sums over the sites of each group and over the tokens or steps of each column, (groups, columns)."""
    encoder = case.shares[0].encoder
    columns = [spots_in(one, encoder) for one in case.columns]
    wheres: Sequence[Spots | range] = columns if plan.component == "text" else plan.steps
    cells = torch.empty(len(plan.groups), len(plan.columns))
    for (row, group), (column, where) in itertools.product(enumerate(plan.groups), enumerate(wheres)):
        line = torch.stack([by_site[site.name] for site in group]).sum(0)
        kept = range(len(line)) if where is None else [i for i in where if i < len(line)]
        cells[row, column] = line[list(kept)].sum()
    return cells


@contextmanager
def recording(sites: Sequence[Site]) -> Iterator[dict[str, torch.Tensor]]:
    """Within the context, what each site computes is kept by name, as part of the graph.

    What flows on is a copy: models add to their streams in place.
    """
    seen: dict[str, torch.Tensor] = {}

    def hook(site: Site) -> torch.utils.hooks.RemovableHandle:
        def on_output(module: nn.Module, args: Any, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            seen[site.name] = first
            return (first.clone(), *output[1:]) if isinstance(output, tuple) else first.clone()

        def on_context(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # A cross-attention is given its queries first, then the text, as keys and perhaps again as values.
            text = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, torch.Tensor) and v.is_floating_point()]
            if not text:
                return None
            seen[site.name] = shared = text[0].clone()
            swap = {id(value): shared for value in text if value is text[0]}
            return (
                (*args[:1], *(swap.get(id(v), v) for v in args[1:])),
                {k: swap.get(id(v), v) for k, v in kwargs.items()},
            )

        if site.kind == "cross_context":
            return site.module.register_forward_pre_hook(on_context, with_kwargs=True)
        return site.module.register_forward_hook(on_output)

    with ExitStack() as stack:
        for site in sites:
            stack.callback(hook(site).remove)
        yield seen
