"""Shared by all tiers. `diff_quickfix` comes from PYTHONPATH (see scripts/bootstrap.py), never from the clone's root:
with the root on sys.path, ComfyUI's own module `nodes` would be shadowed by the pack's folder of that name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=50)
settings.load_profile("repeatable")
if "OMP_NUM_THREADS" not in os.environ:
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI under test."""
    path = os.environ.get("COMFYUI_PATH")
    assert path and (Path(path) / "main.py").is_file(), (
        f"COMFYUI_PATH is {path!r}; expected the folder of a ComfyUI. Run the tests through `make test`."
    )
    return Path(path)


@pytest.fixture(scope="session")
def registry_tool(tmp_path_factory):
    """Run one of the Comfy Registry's tools, "comfy_cli" or "comfy_test", in a folder; returns the ended process."""
    home = tmp_path_factory.mktemp("home")

    def run(folder, module, *arguments, path=(), **variables):
        found = os.pathsep.join([*map(str, path), os.environ["REGISTRY_TOOLS"]])
        return subprocess.run(
            [sys.executable, "-m", module, *map(str, arguments)],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": found, "HOME": str(home), "DO_NOT_TRACK": "1", **variables},
        )

    return run


@pytest.fixture(scope="session")
def tokenizer(comfyui):
    """The CLIP tokenizer with the padding of Stable Diffusion 1.x."""
    from diff_quickfix.text.prompts import PromptTokenizer
    from diff_quickfix.text.vocabulary import clip_tokenizer

    return PromptTokenizer(clip_tokenizer(), pad_token=49407)
