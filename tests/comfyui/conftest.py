"""A real ComfyUI in this process, and the pack loaded the way ComfyUI loads it."""

from in_process import set_up_comfyui
from pack_nodes import corrupt, edit, folders, inference, nodes, pack, restore_text, restore_unet, run, shapes

__all__ = ["corrupt", "edit", "folders", "inference", "nodes", "pack", "restore_text", "restore_unet", "run", "shapes"]


def pytest_configure():
    set_up_comfyui()
