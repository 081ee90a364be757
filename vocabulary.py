"""Where CLIP's byte-pair vocabulary lies: not in this repository; ComfyUI and every diffusers folder bring it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any


def find_vocabulary(*folders: Path | str | None) -> Path:
    """The first folder that holds CLIP's ``vocab.json`` and ``merges.txt``.

    Looked through: ``folders``, ``$SHAPES_TOKENIZER``, the ComfyUI of ``$COMFYUI_PATH``, the one whose ``custom_nodes``
    this pack lies in, and an importable ``comfy`` package.

    Raises:
        FileNotFoundError: none does; the message tells how to name one.
    """
    candidates = [str(folder) for folder in (*folders, os.environ.get("SHAPES_TOKENIZER")) if folder]
    roots = [os.environ.get("COMFYUI_PATH"), Path(__file__).parents[2]]
    candidates += [os.path.join(root, "comfy", "sd1_tokenizer") for root in roots if root]
    spec = importlib.util.find_spec("comfy")
    if spec is not None:
        candidates += [os.path.join(folder, "sd1_tokenizer") for folder in spec.submodule_search_locations or ()]
    for folder in map(Path, candidates):
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return folder
    raise FileNotFoundError(
        f"No CLIP vocabulary found (looked in: {', '.join(candidates)}). Name a folder with vocab.json and merges.txt: "
        "ComfyUI's comfy/sd1_tokenizer, or the tokenizer folder of any Stable Diffusion model. The shell takes it as "
        "--tokenizer FOLDER; all else reads the variable SHAPES_TOKENIZER, or COMFYUI_PATH, the folder of a ComfyUI."
    )


def clip_tokenizer(*folders: Path | str | None) -> Any:
    """The CLIP tokenizer (transformers), from :func:`find_vocabulary`."""
    from transformers import CLIPTokenizer

    # By folder: given the two files by name, transformers 5 silently maps every word to "unknown".
    return CLIPTokenizer.from_pretrained(find_vocabulary(*folders))
