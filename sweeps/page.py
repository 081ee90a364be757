"""The frame and the elements of pages that hold all that they show and ask for nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

import torch

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1f; --soft: #55555f; --paper: #ffffff; --line: #d8d8de; --card: #f5f5f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ececf1; --soft: #b4b4be; --paper: #17171b; --line: #3a3a42; --card: #202026; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h1, h2 { line-height: 1.2; }
p, dd, figcaption, caption { color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.4rem 0; }
th, td { text-align: left; padding: 0.3rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { background: var(--card); }
td.number { text-align: right; white-space: nowrap; }
td.text { overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: #ffffff; color: #1b1b1f; border: 1px solid var(--line); padding: 0.5rem; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { color: #55555f; padding: 0.3rem; }
.wide { overflow-x: auto; }
pre { background: var(--card); padding: 1rem; overflow-x: auto; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A page of some parts, which are HTML; the title is a text."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def embedded(svg: str) -> str:
    """An SVG file as an element of a page: without its head and its metadata, hidden from screen readers."""
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    inner = re.sub(r"<!--.*?-->", "", inner, flags=re.DOTALL)
    return inner.replace("<svg", '<svg aria-hidden="true"', 1).strip()


def number(value: torch.Tensor | float, form: str) -> str:
    """A number in a table, "-" where there is none."""
    found = float(value)
    return format(found, form) if abs(found) < float("inf") else "-"


def folded(title: str, inner: str, shown: bool = False) -> str:
    """What a click shows."""
    return f"<details{' open' * shown}><summary>{escape(title)}</summary>{inner}</details>"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: Sequence[int]) -> str:
    """A table whose columns are numbers, but for those of ``texts``."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    kinds = ["text" if place in texts else "number" for place in range(len(heads))]
    lines = (
        "<tr>"
        + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    inner = f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}"><table>{inner}</table></div>'
