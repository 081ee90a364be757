"""What a trace hands on to other nodes; where there is nothing, the nodes behind it are stopped, and say why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker

from ....families.door import DoorError
from ....families.site_doors import doors_of_sites
from ....tracing.results.locate import sites_found
from ....tracing.results.taps import tap_weights
from ....tracing.results.trace import CausalTrace, TraceError


@dataclass(frozen=True)
class Finding:
    """One output.

    Attributes:
        value: the output: text, or what stops the nodes that read it.
        lines: what the report says of it.
    """

    value: Any
    lines: tuple[str, ...] = ()


def doors_of(trace: CausalTrace, site: str) -> Finding:
    """The patterns of the doors at a site of a trace, or at those of its window."""
    try:
        patterns = doors_of_sites(sites_found(trace, site))
    except (DoorError, TraceError) as error:
        return Finding(ExecutionBlocker(str(error)), () if trace.component == "text" else (str(error),))
    return Finding(patterns, (f"Doors for Edit Image Model: {patterns}",))


def weights_of(trace: CausalTrace) -> Finding:
    """The weights of a trace's taps."""
    try:
        weights = tap_weights(trace)
    except TraceError as error:
        taps = any(name.endswith(".tap") for name in trace.sites)
        return Finding(ExecutionBlocker(str(error)), (str(error),) if taps else ())
    return Finding(weights.list(), (weights.text(),))
