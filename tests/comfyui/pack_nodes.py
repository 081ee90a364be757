"""Fixtures: the pack loaded the way ComfyUI loads it, its nodes, and Shapes through them."""

import asyncio
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from runs import PROMPT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def pack():
    """The pack as a module, under a name of its own as in ComfyUI."""
    spec = importlib.util.spec_from_file_location(
        "pack_under_test", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def nodes(pack):
    """The pack's node classes by id."""
    extension = asyncio.run(pack.comfy_entrypoint())
    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}


@pytest.fixture
def run(nodes):
    """Run a node by its id, in inference mode as ComfyUI does; returns its outputs."""

    def execute(name, *args, **inputs):
        with torch.inference_mode():
            return nodes[f"DiffQuickFix_{name}"].execute(*args, **inputs)

    return execute


@pytest.fixture
def edit(nodes):
    """Run "Diff-QuickFix Edit" with its defaults; returns (clip, edit, report)."""
    node = nodes["DiffQuickFix_Edit"]
    defaults = {
        "source": "van gogh",
        "target": "painting",
        "kind": "style",
        "preset": "guarded",
        "layer": 0,
        "lam": 0.0,
        "positions": "last subject token and padding",
        "strength": 1.0,
    }

    def run(clip, **changes):
        with torch.inference_mode():
            return node.execute(clip, **{**defaults, **changes}).args

    return run


@pytest.fixture(scope="session")
def shapes(nodes):
    """Shapes as ComfyUI objects: (model, clip, vae)."""
    return nodes["DiffQuickFix_LoadShapesDemo"].execute().args


@pytest.fixture
def inference():
    """Inference mode, in which ComfyUI runs its nodes."""
    with torch.inference_mode():
        yield


@pytest.fixture
def corrupt(nodes):
    def run(clip, prompt=PROMPT, subject="van gogh", noise=3.0, seed=0, replaced_by=""):
        return nodes["DiffQuickFix_CorruptPrompt"].execute(clip, prompt, subject, noise, seed, replaced_by).args

    return run


@pytest.fixture
def restore_text(nodes):
    return lambda *args: nodes["DiffQuickFix_RestoreTextState"].execute(*args).args[0]


@pytest.fixture
def restore_unet(nodes):
    def run(model, corruption, sites, start=0, end=10000, branch="cond"):
        return nodes["DiffQuickFix_RestoreUNetState"].execute(model, corruption, sites, start, end, branch).args[0]

    return run


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """An output folder of its own, registered as main.py does."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths,
        "loras",
        ([str(tmp_path / "models"), str(tmp_path / "loras")], folder_paths.supported_pt_extensions),
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (tmp_path / "models").mkdir()
    return tmp_path
