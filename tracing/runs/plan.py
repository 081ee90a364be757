"""What a trace sweeps: sites against tokens or steps, for seeds, noise draws and controls; one job for each row."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

from ...families.sites import Site, group_name
from ..results.trace import PROBES


def step_columns(steps: int, count: int) -> tuple[tuple[str, ...], tuple[range | None, ...]]:
    """The columns of an image model's trace: some windows that divide the sampling steps, or one of all of them.

    Returns:
        Their labels, and their steps (None: all).

    Raises:
        ValueError: fewer steps than windows.
    """
    if not 1 <= count <= steps:
        raise ValueError(f"Cannot divide {steps} steps into {count} windows; choose 1 to {steps}.")
    if count == 1:
        return ("all steps",), (None,)
    bounds = [round(i * steps / count) for i in range(count + 1)]
    ranges = tuple(range(a, b) for a, b in itertools.pairwise(bounds))
    labels = tuple(f"step {r[0] + 1}" if len(r) == 1 else f"steps {r[0] + 1}-{r[-1] + 1}" for r in ranges)
    return labels, ranges


@dataclass(frozen=True)
class Plan:
    """What to sweep.

    Attributes:
        component: "text" or "unet".
        groups: windows of sites that are restored together.
        sites: all sites of the component in the order in which they run; ``sever`` looks downstream in it.
        columns: labels of the second axis: tokens or roles, or step windows.
        steps: for a UNet trace, the step window of each column (None: all steps).
        seeds: seeds of the initial noise.
        draws: noise draws that are traced.
        controls: null restorations for each prompt, seed and draw, at random sites and columns, with the states of
            another corrupted draw.
        probe: one of :data:`~..results.trace.PROBES`: corrupted runs in which sites are restored, or clean ones in
            which the sites, of the kind "cross_context", are given the corrupted text.
        sever: hold downstream sites of this kind at their corrupted states, as in ROME's ablation. Of several text
            encoders, none is downstream of another.
        empty: cells (group, column) that are not measured: the column has no position in the group's text encoder.
        control_seed: seed of the choice of controls.
    """

    component: str
    groups: tuple[tuple[Site, ...], ...]
    sites: tuple[Site, ...]
    columns: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[range | None, ...] = ()
    draws: int = 1
    controls: int = 0
    sever: str | None = None
    empty: frozenset[tuple[int, int]] = frozenset()
    control_seed: int = 0
    probe: str = PROBES[0]

    @property
    def restores(self) -> bool:
        """Whether sites are restored, and not given other text."""
        return self.probe == PROBES[0]

    def names(self) -> tuple[str, ...]:
        return tuple(group_name(group) for group in self.groups)

    def severed(self, group: int) -> tuple[str, ...]:
        """Names of the sites that are held corrupted while a group is restored."""
        if self.sever is None:
            return ()
        last = max(self.sites.index(site) for site in self.groups[group])
        inside, encoder = set(self.groups[group]), self.groups[group][0].encoder
        later = [site for site in self.sites[last + 1 :] if site.encoder == encoder and site not in inside]
        return tuple(site.name for site in later if site.kind == self.sever)


@dataclass(frozen=True)
class Job:
    """One row to paint and where its score goes."""

    draw: int | None
    group: int | None = None
    column: int = 0
    donor: int | None = None
    control: int | None = None


def jobs_of(plan: Plan) -> list[Job]:
    """Clean first, then corrupted, then restored, then controls: donors other than the clean row are needed last."""
    jobs = [Job(None), *(Job(draw) for draw in range(plan.draws))]
    every = itertools.product(range(len(plan.groups)), range(len(plan.columns)))
    cells = [cell for cell in every if cell not in plan.empty]
    jobs += [Job(draw, group, column) for draw in range(plan.draws) for group, column in cells]
    picker = random.Random(plan.control_seed)
    for draw, number in itertools.product(range(plan.draws), range(plan.controls)):
        group, column = picker.choice(cells)
        jobs.append(Job(draw, group, column, draw + 1, number))
    return jobs
