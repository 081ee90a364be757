"""The model that the shell's tests edit, and what they ask of it."""

from pathlib import Path

from model_files import LAYOUTS

WIDTH, HEADS = 32, 4
OUT_PROJ = LAYOUTS["sd1"][0] + "encoder.layers.0.self_attn.out_proj.weight"
VAN_GOGH = ["--edit", "van gogh -> painting"]


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their names in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
