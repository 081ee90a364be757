"""ComfyUI's modules in the process of a test."""

import sys
from pathlib import Path


def set_up_comfyui(path: Path | str) -> None:
    """Put ComfyUI on ``sys.path`` and have it run on the CPU, whatever pytest's own arguments are."""
    sys.path.insert(0, str(path))
    arguments, sys.argv = sys.argv, ["main.py", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.cli_args

    sys.argv = arguments
