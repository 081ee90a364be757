"""Pipelines from folders, and the versions of what runs them. The one module here that imports diffusers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..opened import PipelineError


def load_pipeline(folder: Path | str, *, device: Any = None, dtype: torch.dtype | str | None = None) -> Any:
    """A diffusers pipeline from a folder; no network is used.

    Args:
        device: where it computes; None: a GPU where there is one.
        dtype: of its weights, such as torch.float16 or "float16"; None: as the folder has them, in fp32 where it does
            not say.

    Raises:
        PipelineError: the folder holds no pipeline that diffusers can load.
    """
    from diffusers import DiffusionPipeline

    index = Path(folder) / "model_index.json"
    if not index.is_file():
        raise PipelineError(f"{folder} holds no diffusers pipeline (model_index.json).")
    chosen = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    try:
        parts = json.loads(index.read_text(encoding="utf-8"))
        # A pipeline that was saved without a part is loaded without it.
        options: dict[str, Any] = {name: None for name, value in parts.items() if value == [None, None]}
        if chosen is not None:
            options["torch_dtype"] = chosen
        pipe: Any = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{folder} cannot be loaded as a diffusers pipeline: {error}") from error
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return pipe.to(device)


def versions() -> dict[str, str]:
    """The versions of the libraries that compute a trace."""
    import diffusers
    import transformers

    return {
        "version of diffusers": diffusers.__version__,
        "version of torch": torch.__version__,
        "version of transformers": transformers.__version__,
    }
