"""The scores of a sweep for pandas, polars, R and DuckDB (Parquet), and for xarray; both packages are imported here.

docs/trace-file.md documents the columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..output.files import whole_file
from ..tracing.results.trace import CausalTrace
from .plan import SweepError
from .scores import whole_shards
from .store import SweepFolder

_ROWS = 100_000
KINDS = ("cell", "control")
# The columns of the table: their names, and what Arrow calls their types; texts are dictionaries.
COLUMNS = {
    "prompt": "text",
    "subject": "text",
    "seed": "int64",
    "draw": "int32",
    "kind": "text",
    "site": "text",
    "column": "text",
    "control": "int32",
    "clean": "float32",
    "corrupted": "float32",
    "restored": "float32",
    "indirect_effect": "float32",
    "total_effect": "float32",
}


def to_parquet(source: SweepFolder | CausalTrace, path: Path, *, partial: bool = False, overwrite: bool = False) -> int:
    """Write one row for each restored run, those of controls too; returns how many. A sweep is read shard by shard.

    Args:
        partial: of a sweep, take the prompts whose seeds are all there.

    Raises:
        SweepError: pyarrow is not installed, or shards are missing.
        OSError: the file exists, or cannot be written.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        raise SweepError('pyarrow is not installed. Install it: pip install "diff-quickfix[sweep]"') from error
    kinds = {"text": arrow.dictionary(arrow.int32(), arrow.string()), "int64": arrow.int64(), "int32": arrow.int32()}
    kinds["float32"] = arrow.float32()
    schema = arrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    traces = [source] if isinstance(source, CausalTrace) else source.traces(whole_shards(source, partial))
    rows = 0
    with whole_file(Path(path), overwrite=overwrite) as part, parquet.ParquetWriter(part, schema) as writer:
        for columns in _gathered(_columns(trace) for trace in traces):
            arrays = [arrow.array(columns[name]).cast(kinds[kind]) for name, kind in COLUMNS.items()]
            table = arrow.Table.from_arrays(arrays, schema=schema)
            writer.write_table(table)
            rows += table.num_rows
    return rows


def to_xarray(trace: CausalTrace) -> Any:
    """The trace as an ``xarray.Dataset``: its four arrays of scores, with prompts, seeds, sites and columns as
    coordinates, and what made them as attributes.

    Raises:
        SweepError: xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise SweepError('xarray is not installed. Install it: pip install "diff-quickfix[sweep]"') from error
    runs = ("prompt", "seed", "draw")
    return xarray.Dataset(
        {
            "clean": (runs[:2], trace.clean.numpy()),
            "corrupted": (runs, trace.corrupted.numpy()),
            "restored": ((*runs, "site", "column"), trace.restored.numpy()),
            "control": ((*runs, "null"), trace.control.numpy()),
        },
        coords={
            "prompt": list(trace.prompts),
            "subject": ("prompt", list(trace.subjects)),
            "seed": list(trace.seeds),
            "site": list(trace.sites),
            "column": list(trace.columns),
        },
        attrs={name: getattr(trace, name) for name in ("component", "column_axis", "score", "probe")} | trace.settings,
    )


def _columns(trace: CausalTrace) -> dict[str, np.ndarray]:
    """The table of a trace by columns: cells, then controls."""
    cells = trace.restored.flatten(3), trace.indirect_effects().flatten(3)
    parts = [_block(trace, *cells, "cell"), _block(trace, trace.control, trace.control_effects(), "control")]
    return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS}


def _block(trace: CausalTrace, scores: torch.Tensor, effects: torch.Tensor, kind: str) -> dict[str, np.ndarray]:
    """Rows for scores and their effects (P, S, D, N) of one kind."""
    size, number = tuple(scores.shape), scores.shape[3]
    prompt, seed, draw, place = (index.ravel() for index in np.indices(size))
    cell = kind == KINDS[0]
    rows, columns = np.divmod(place, len(trace.columns))
    empty = np.full(len(place), None)
    runs = {
        "clean": trace.clean[..., None, None].expand(size),
        "corrupted": trace.corrupted[..., None].expand(size),
        "restored": scores,
        "indirect_effect": effects,
        "total_effect": trace.total_effects()[..., None].expand(size),
    }
    texts = {name: np.array(getattr(trace, name), dtype=object) for name in ("prompts", "subjects", "sites", "columns")}
    return {
        "prompt": texts["prompts"][prompt],
        "subject": texts["subjects"][prompt],
        "seed": np.array(trace.seeds, dtype=np.int64)[seed],
        "draw": draw.astype(np.int32),
        "kind": np.full(len(place), kind, dtype=object),
        "site": texts["sites"][rows] if cell else empty,
        "column": texts["columns"][columns] if cell else empty,
        "control": empty if cell or not number else place.astype(object),
        **{name: value.reshape(-1).numpy() for name, value in runs.items()},
    }


def _gathered(tables: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """Tables put together until they are worth a group of rows."""
    held: list[dict[str, np.ndarray]] = []
    rows = 0
    for table in tables:
        held.append(table)
        rows += len(table["seed"])
        if rows >= _ROWS:
            yield {name: np.concatenate([one[name] for one in held]) for name in COLUMNS}
            held, rows = [], 0
    if held:
        yield {name: np.concatenate([one[name] for one in held]) for name in COLUMNS}
