"""The nodes, gathered."""

from __future__ import annotations

from .api import ComfyExtension, io
from .edit import DiffQuickFixEdit
from .shapes import LoadShapesDemo

NODES: list[type[io.ComfyNode]] = [DiffQuickFixEdit, LoadShapesDemo]


class DiffQuickFixExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
