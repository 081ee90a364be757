"""The tests of this folder run on a pretended accelerator beside the CPU (see ``pretended.py``)."""

import importlib

import pytest
import torch
from in_process import set_up_comfyui
from loading import has_memory
from pack_nodes import edit, folders, inference, nodes, pack, run, shapes
from pretended import DEVICE, Pretended, pretending

__all__ = ["edit", "folders", "inference", "nodes", "pack", "run", "shapes"]


def pytest_configure():
    set_up_comfyui()
    torch.set_num_threads(1)  # everything is small: on a busy machine, threads would only wait for each other


@pytest.fixture(autouse=True)
def traffic():
    """The device is there; what is copied between it and the CPU is counted."""
    with pretending() as counted:
        yield counted


@pytest.fixture
def accelerator(pack, monkeypatch):
    """ComfyUI takes the device for its GPU, with more memory than anything needs; gives its model management."""
    import comfy.model_management as management

    for name in ("get_torch_device", "text_encoder_device", "vae_device"):
        monkeypatch.setattr(management, name, lambda: DEVICE)
    has_memory(monkeypatch, 2**40)
    # It computes in fp64, as CUDA does, and its tensors are of a class of their own.
    monkeypatch.setattr(f"{pack.__name__}.quickfix.encoder.tower._WITH_FP64", ("cpu", DEVICE.type))
    host = importlib.import_module(f"{pack.__name__}.nodes.host.editing.base_weights")
    monkeypatch.setattr(host, "_PLAIN", (*host._PLAIN, Pretended))
    monkeypatch.setattr(management, "LORA_COMPUTE_DTYPES", {})
    yield management
    with torch.inference_mode():
        management.unload_all_models()


@pytest.fixture
def moved(nodes, accelerator):
    """Shapes for the device: (model, clip, vae), nothing loaded yet."""
    return nodes["DiffQuickFix_LoadShapesDemo"].execute().args
