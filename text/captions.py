"""Caption templates: a concept in the sentences that an edit is computed from."""

from __future__ import annotations

from collections.abc import Sequence

from .prompts import PromptError

KINDS = ("style", "object", "fact", "custom")


PUBLISHED_TEMPLATES = ("{x}", "A photo of {x}", "An image of {x}", "A picture of {x}")


_DEFAULT_TARGETS = {"style": "painting"}


def default_templates(kind: str) -> tuple[str, ...]:
    """Caption templates of a kind of concept: the four published ones.

    Raises:
        PromptError: unknown kind, or "custom", which brings its own templates.
    """
    if kind not in KINDS:
        raise PromptError(f"Unknown kind of concept {kind!r}; expected one of {', '.join(KINDS)}.")
    if kind == "custom":
        raise PromptError('Kind "custom" needs its own caption templates, one on each line, with {x} for the concept.')
    return PUBLISHED_TEMPLATES


def default_target(kind: str) -> str | None:
    """What a concept of this kind becomes when nothing is said: "painting" for a style, nothing sensible otherwise."""
    return _DEFAULT_TARGETS.get(kind)


def expand(templates: Sequence[str], concept: str) -> tuple[str, ...]:
    """Put a concept into each template in place of ``{x}``.

    Raises:
        PromptError: no templates, or one without ``{x}``.
    """
    if not templates:
        raise PromptError("No caption templates given; expected at least one, such as {x}.")
    for template in templates:
        if "{x}" not in template:
            raise PromptError(f"The template {template!r} has no {{x}}; write {{x}} where the concept stands.")
    return tuple(template.replace("{x}", concept) for template in templates)
