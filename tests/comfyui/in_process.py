"""ComfyUI's modules in the process of a test."""

import importlib
import os
import sys
from pathlib import Path


def set_up_comfyui(path: Path | str | None = None) -> None:
    """Put ComfyUI, by default the one under test, on ``sys.path`` and have it run on the CPU, whatever pytest's own
    arguments are."""
    path = os.environ.get("COMFYUI_PATH", "") if path is None else path
    assert Path(path, "main.py").is_file(), f"COMFYUI_PATH is {path!r}; expected a ComfyUI. Run through `make test`."
    sys.path.insert(0, str(path))
    arguments, sys.argv = sys.argv, ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    # As main.py does, before ComfyUI's nodes put a folder with another module of this name on sys.path.
    importlib.import_module("utils.extra_config")
    sys.argv = arguments
