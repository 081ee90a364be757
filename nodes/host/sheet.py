"""Batches of pictures, as ComfyUI hands them around, on one sheet."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from ...output.picture_changes import change_between, percent, summary
from ...output.picture_sheet import draw_sheet


class SheetError(ValueError):
    """Pictures that cannot be compared."""


def sheet_of(batches: Mapping[str, torch.Tensor], names: str, rows: str) -> tuple[np.ndarray, str]:
    """The sheet, and what changed beside the first batch, in words.

    Args:
        batches: pictures (n, height, width, 3 or 4) in [0, 1] by the input's name; transparency is left out.
        names: of the columns, divided by "|"; one that is missing is called as its input.
        rows: what stands above each row, one a line.

    Returns:
        (the sheet (height, width, 3) uint8, the report).

    Raises:
        SheetError: the batches differ in their numbers or sizes, or hold values that are no numbers.
    """
    columns = [_pictures(name, images) for name, images in batches.items()]
    _check_alike(dict(zip(batches, columns, strict=True)))
    given = [name.strip() for name in names.split("|")]
    titles = [given[place] if place < len(given) and given[place] else name for place, name in enumerate(batches)]
    lines = [line.strip() for line in rows.strip().splitlines()]
    labels = [lines[row] if row < len(lines) else "" for row in range(len(columns[0]))]
    changes = [[change_between(*pair) for pair in zip(columns[0], other, strict=True)] for other in columns[1:]]
    captions = [[""] * len(labels), *([f"changed: {percent(one.mean)}" for one in column] for column in changes)]
    sheet, lacking = draw_sheet(columns, titles, labels, captions)
    report = summary(titles, changes, labels)
    if len(lines) > len(labels):
        report += f"\nrows has {len(lines)} lines for {len(labels)} pictures; the last were left out."
    if lacking:
        report += f"\nNo font on this machine has {lacking}: squares stand in their place."
    return sheet, report


def _pictures(name: str, images: torch.Tensor) -> np.ndarray:
    pictures = images[..., :3].detach().float().cpu().numpy()
    broken = [str(place + 1) for place, picture in enumerate(pictures) if not np.isfinite(picture).all()]
    if broken:
        raise SheetError(
            f"Before/After Sheet: in {name}, picture {', '.join(broken)} holds values that are no numbers (NaN), "
            "expected values from 0 to 1. Start ComfyUI with --fp32-vae, or look at what paints it."
        )
    return pictures


def _check_alike(columns: Mapping[str, np.ndarray]) -> None:
    (first, wanted), *others = columns.items()
    for name, pictures in others:
        if pictures.shape != wanted.shape:
            raise SheetError(
                f"Before/After Sheet: {first} holds {_said(wanted)}, {name} {_said(pictures)}; expected as many, of "
                "the same size, in the same order: the same prompts and seeds. Give all samplers the same latent."
            )


def _said(pictures: np.ndarray) -> str:
    count, height, width = pictures.shape[:3]
    return f"{count} picture{'s' * (count != 1)} of {width} x {height}"
