"""Figures without global state. Matplotlib is imported when something is drawn, not before."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

DPI = 100


def new_figure(width: int, height: float) -> Any:
    """A Matplotlib figure, ``width`` in pixels, ``height`` in inches of :data:`DPI` pixels.

    Raises:
        ImportError: Matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Drawing needs Matplotlib, which is not installed. Install it into ComfyUI's Python: "
            "python -m pip install matplotlib"
        ) from error
    # Matplotlib rounds sizes in pixels down, and the product of inches and dots may fall just short.
    return Figure(figsize=((width + 0.5) / DPI, height), dpi=DPI)


def as_pixels(figure: Any) -> np.ndarray:
    """A figure as (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    _take_texts_literally(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def as_svg(figure: Any) -> str:
    """A figure as SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    _take_texts_literally(figure)
    out = io.StringIO()
    FigureCanvasSVG(figure).print_svg(out)
    return out.getvalue()


def shorten(text: str, longest: int = 90) -> str:
    """A stranger's text for a label: printable, on one line, not endless."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= longest else plain[: longest - 3] + "..."


def _take_texts_literally(figure: Any) -> None:
    """The user's Matplotlib may be set to have LaTeX draw all texts; these come from strangers."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_usetex(False)
