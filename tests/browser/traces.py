"""Traces with known numbers, for the heat map, and embeddings; the tests make them instead of running a sweep."""

from pathlib import Path

import torch
from diff_quickfix.tracing.results.examples import examples_of
from diff_quickfix.tracing.results.trace import CausalTrace
from diff_quickfix.tracing.results.trace_file import save_trace
from safetensors.torch import save_file

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
HOSTILE_FILE = "hostile <img src=x onerror=alert(3)>"
BEST = ("text.0.self_attn", "gogh")
_SITES = tuple(f"text.{layer}.{kind}" for layer in range(6) for kind in ("self_attn", "mlp", "hidden"))
_THINGS = ("house", "tree", "boat", "bridge", "cat", "river", "field", "chair")
_COLUMNS = ("van", "gogh", "<end>", "<padding>")


def make_trace(**labels) -> CausalTrace:
    """Eight prompts; only text.0.self_attn at "gogh" brings anything back, nearly all of it."""
    rng = torch.Generator().manual_seed(0)
    fields = {
        "sites": _SITES,
        "columns": _COLUMNS,
        "prompts": tuple(f"a {thing} by van gogh" for thing in _THINGS),
        "subjects": ("van gogh",) * len(_THINGS),
        "score": "cosine",
        **labels,
    }
    count = len(fields["prompts"])
    corrupted = 0.2 + 0.02 * torch.randn(count, 1, 1, generator=rng)
    shape = (count, 1, 1, len(fields["sites"]), len(fields["columns"]))
    restored = corrupted[..., None, None] + 0.01 * torch.randn(shape, generator=rng)
    restored[..., 0, 1] += 0.7
    control = corrupted[..., None] + 0.01 * torch.randn(count, 1, 1, 8, generator=rng)
    return CausalTrace(
        component="text",
        column_axis="token",
        seeds=(0,),
        draws=1,
        clean=torch.ones(count, 1),
        corrupted=corrupted,
        restored=restored,
        control=control,
        **fields,
    )


# Pictures of the trace "pictured", as the colors of EmptyImage: clean, corrupted, and restored at some cells.
COLORS = (0xFFFFFF, 0x202020, 0xFF0000, 0x0000FF)
PICTURED = ((0, 1), (0, 2))


def solid(color: int) -> torch.Tensor:
    """What EmptyImage makes of a color, (64, 64, 3)."""
    levels = [(color >> shift & 0xFF) / 0xFF for shift in (16, 8, 0)]
    return torch.tensor(levels).expand(64, 64, 3)


# Embeddings by name: how many vectors each has.
EMBEDDINGS = {"mystyle": 2, "styles/other": 1}


def save_embeddings(folder: Path) -> None:
    """The embeddings that prompts name."""
    for name, vectors in EMBEDDINGS.items():
        path = folder / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"emb_params": torch.zeros(vectors, 768)}, path)


def save_traces(folder: Path) -> None:
    """The trace files that the tests load."""
    folder.mkdir(parents=True, exist_ok=True)
    save_trace(make_trace(), folder / "known.trace.safetensors")
    examples = examples_of(PICTURED, torch.stack([solid(color) for color in COLORS]))
    save_trace(make_trace(examples=examples), folder / "pictured.trace.safetensors")
    sites, columns = tuple(f"text.{n}.mlp" for n in range(60)), tuple(f"word{n}" for n in range(40))
    save_trace(make_trace(sites=sites, columns=columns), folder / "large.trace.safetensors")
    hostile = make_trace(
        sites=tuple(f"text.{n}.{HOSTILE}" for n in range(len(_SITES))),
        columns=(HOSTILE, "a\u202eb", "\0", "x" * 500),
        prompts=(HOSTILE, HOSTILE),
        subjects=(HOSTILE,) * 2,
        score=HOSTILE,
    )
    save_trace(hostile, folder / f"{HOSTILE_FILE}.trace.safetensors")
