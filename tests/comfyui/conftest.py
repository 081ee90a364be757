"""A real ComfyUI in this process, and the pack loaded the way ComfyUI loads it."""

import pytest
import torch
from in_process import set_up_comfyui
from pack_nodes import corrupt, edit, folders, inference, nodes, pack, restore_text, restore_unet, run, shapes
from runs import sweep_inputs
from small_sdxl import small_clip, small_model

__all__ = ["corrupt", "edit", "folders", "inference", "nodes", "pack", "restore_text", "restore_unet", "run", "shapes"]


def pytest_configure():
    set_up_comfyui()


@pytest.fixture(scope="module")
def sdxl():
    """(MODEL, CLIP) of a small SDXL of random weights."""
    return small_model(), small_clip()


@pytest.fixture(params=["shapes", "sdxl"])
def objects(request, shapes, sdxl):
    """(MODEL, CLIP) of each kind."""
    return shapes[:2] if request.param == "shapes" else sdxl


@pytest.fixture(scope="session")
def text_trace(nodes, shapes):
    """A trace of Shapes' text encoder over its six layers, and its pictures; never changed by a test."""
    with torch.inference_mode():
        return nodes["DiffQuickFix_CausalTraceText"].execute(**sweep_inputs(shapes, draws=2), columns="tokens").args
