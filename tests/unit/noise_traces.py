"""Traces of noise for the tests of what reads a trace."""

import torch
from diff_quickfix.tracing.results.trace import CausalTrace

SITES = ("text.0.self_attn", "text.1.self_attn", "text.0.mlp", "text.1.mlp")
COLUMNS = ("gogh", "<padding>", "all")


def make(prompts=6, seeds=2, draws=2, controls=8, seed=0, planted=None, noise=0.1, **labels):
    """A trace of noise, with an effect planted in one cell."""
    rng = torch.Generator().manual_seed(seed)
    units = (prompts, seeds, draws)
    corrupted = torch.randn(units, generator=rng)
    restored = corrupted[..., None, None] + noise * torch.randn(*units, 4, 3, generator=rng)
    if planted is not None:
        restored[..., planted[0], planted[1]] += 1.0
    control = corrupted[..., None] + noise * torch.randn(*units, controls, generator=rng)
    fields = {
        "prompts": tuple(f"prompt {i}" for i in range(prompts)),
        "subjects": ("van gogh",) * prompts,
        "sites": SITES,
        "columns": COLUMNS,
        "score": "cosine",
        "settings": {"steps": 3},
        "component": "text",
        "column_axis": "token",
    }
    return CausalTrace(
        seeds=tuple(range(seeds)),
        draws=draws,
        clean=torch.full((prompts, seeds), 3.0),
        corrupted=corrupted,
        restored=restored,
        control=control,
        **{**fields, **labels},
    )
