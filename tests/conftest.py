"""Shared by all tiers. `diff_quickfix` comes from PYTHONPATH (see scripts/bootstrap.py), never from the clone's root:
with the root on sys.path, ComfyUI's own module `nodes` would be shadowed by the pack's folder of that name."""

import os
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
def tokenizer(comfyui):
    """The CLIP tokenizer with the padding of Stable Diffusion 1.x."""
    from diff_quickfix.text.prompts import PromptTokenizer
    from diff_quickfix.text.vocabulary import clip_tokenizer

    return PromptTokenizer(clip_tokenizer(), pad_token=49407)
