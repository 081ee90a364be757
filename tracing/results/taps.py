"""What a trace over a text encoder's taps says of each: the effects as weights."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .trace import CausalTrace, TraceError


@dataclass(frozen=True)
class TapWeights:
    """What is brought back by each of the hidden states that a text encoder hands to the image model.

    Attributes:
        layers: of each tap, in the order in which the encoder hands them on.
        column: the tokens at which they were put back.
        effects: the average indirect effect of each, in units of the score.
        weights: the effects, those below zero as zero, over their mean: none is negative, and their mean is 1.
    """

    layers: tuple[int, ...]
    column: str
    effects: tuple[float, ...]
    weights: tuple[float, ...]

    def list(self) -> str:
        """The weights divided by commas."""
        return ", ".join(f"{weight:.3f}" for weight in self.weights)

    def text(self) -> str:
        """One line for each tap."""
        lines = [f"{len(self.layers)} taps, put back at {self.column!r}: tap of layer, effect, weight"]
        values = zip(self.layers, self.effects, self.weights, strict=True)
        return "\n".join([*lines, *(f"{layer}, {effect:+.4f}, {weight:.3f}" for layer, effect, weight in values)])


def tap_weights(trace: CausalTrace) -> TapWeights:
    """The effects of a trace's taps, put back one by one, as weights.

    They are taken at the column "all" where there is one, else where all taps together bring back the most.

    Raises:
        TraceError: the trace has no taps, windows of them, or those of two encoders; or none brings anything back.
    """
    rows = [row for row, site in enumerate(trace.sites) if site.endswith(".tap")]
    if not rows:
        raise TraceError(
            "The trace has no taps: choose the kind tap in Causal Trace (Text Encoder), with the CLIP of a model that "
            "reads several layers at once (Krea 2, Flux.2)."
        )
    found = [re.fullmatch(r"text\.(\w+)\.(\d+)\.tap", trace.sites[row]) for row in rows]
    places = [one.groups() for one in found if one]
    if len(places) < len(rows) or len({encoder for encoder, _ in places}) > 1:
        raise TraceError("Weights are of single taps of one text encoder; set window to 1, or trace one encoder.")
    effects = trace.average_indirect_effect()[rows]
    together = effects.sum(0)
    column = trace.columns.index("all") if "all" in trace.columns else int(together.nan_to_num(-float("inf")).argmax())
    own = effects[:, column]
    if not own.isfinite().all():
        raise TraceError("Not all taps are measured yet; let the trace run on.")
    kept = own.clamp_min(0.0)
    if not kept.any():
        raise TraceError("No tap brings anything back; there is nothing to weigh. Trace more prompts.")
    weights = kept / kept.mean()
    layers = tuple(int(layer) for _, layer in places)
    return TapWeights(layers, trace.columns[column], tuple(own.tolist()), tuple(weights.tolist()))
