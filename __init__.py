"""Diff-QuickFix: find where a text-to-image model keeps a piece of knowledge, and edit it in closed form.

The door of the pack. ComfyUI calls :func:`comfy_entrypoint`; everything heavier is imported only then. As a Python
package, ``diff_quickfix.quickfix`` and ``diff_quickfix.demo_model`` work without ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .nodes import DiffQuickFixExtension

WEB_DIRECTORY = "./web"
__version__ = "0.1.0"


async def comfy_entrypoint() -> DiffQuickFixExtension:
    from .nodes import DiffQuickFixExtension

    return DiffQuickFixExtension()
