"""A real ComfyUI in this process, and the pack loaded the way ComfyUI loads it."""

import pytest
import torch
from in_process import set_up_comfyui
from pack_nodes import corrupt, edit, folders, inference, nodes, pack, restore_text, restore_unet, run, shapes
from runs import sweep_inputs

__all__ = ["corrupt", "edit", "folders", "inference", "nodes", "pack", "restore_text", "restore_unet", "run", "shapes"]


def pytest_configure():
    set_up_comfyui()


@pytest.fixture(scope="session")
def text_trace(nodes, shapes):
    """A trace of Shapes' text encoder over its six layers, and its pictures; never changed by a test."""
    with torch.inference_mode():
        return nodes["DiffQuickFix_CausalTraceText"].execute(**sweep_inputs(shapes, draws=2), columns="tokens").args
