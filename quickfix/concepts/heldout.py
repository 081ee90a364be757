"""Captions that no edit is computed from, to see whether it holds beyond its own templates.

By kind of concept: other sentences and ways of saying the same, the concept at the front, in the middle, at the end.
"""

from __future__ import annotations

HELD_OUT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "style": (
        "a house in the style of {x}",
        "{x} style, a mountain lake at dawn",
        "a portrait of a woman, brush strokes like {x}'s, on canvas",
        "a dog by {x}",
    ),
    "object": (
        "two children play with {x} in a park",
        "{x} wearing a red hat",
        "a small statue of {x} on a shelf, studio light",
        "my favorite is {x}",
    ),
    "fact": (
        "a portrait of the {x}",
        "the {x} gives a speech to a crowd",
        "a postage stamp that shows the {x}, engraving",
        "a newspaper about the {x}",
    ),
    "custom": (
        "here we see {x}",
        "{x}, wide angle, soft light",
        "a scene with {x} in the middle of it, seen from afar",
        "something like {x}",
    ),
}
