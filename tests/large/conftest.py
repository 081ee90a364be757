"""Models of real size in a real ComfyUI: what `make test-large` runs, apart from `make test`."""

from in_process import set_up_comfyui
from pack_nodes import inference, nodes, pack, run

__all__ = ["inference", "nodes", "pack", "run"]


def pytest_configure():
    set_up_comfyui()
