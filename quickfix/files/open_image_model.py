"""Finding the image model of a model on disk, and the text encoders that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...families.doors import DoorError, Family, family_of
from ..encoder.fronts.opened import CLIPS
from ..encoder.prompt_states import READINGS
from ..encoder.row_states import ROW_READINGS, RowReading, reading_of
from .image_model_file import ImageModelFile, shapes_below
from .row_encoder_file import encoder_paths, find_encoder
from .row_model_file import RowModelFile
from .tensor_file import TensorFileError
from .text_encoder_file import (
    ModelFileError,
    Tensors,
    TextEncoderFile,
    folder_weights,
    open_all_encoders,
    open_clips,
    opened_tensors,
)

_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "net.", "")
_FOLDERS = ("unet", "transformer")
_FOLDER_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors")


def open_image_model(model: Path | str, text_encoders: Sequence[Path | str] = ()) -> ImageModelFile:
    """Find the image model of a model on disk, and its text encoders; nothing but headers is read.

    Args:
        model: a checkpoint or a file of an image model alone (safetensors), or a diffusers folder.
        text_encoders: files or folders of text encoders that are not in the model.

    Raises:
        ModelFileError: there is no image model, or not the text encoders that it reads.
        DoorError: it is of no family whose doors are known.
        TensorFileError: a file cannot be read.
    """
    path = Path(model)
    file, prefix = _image_model(path)
    family = family_of(shapes_below(file, prefix))
    if family.name in READINGS:
        encoders = open_all_encoders(path, [reading.encoder for reading in READINGS[family.name]], text_encoders)
        return ImageModelFile(family, file, prefix, encoders)
    if family.name not in ROW_READINGS:
        raise DoorError(
            f"The text encoders of {family.title} are not read outside of ComfyUI. Use the node Remove Concept or Edit "
            "Image Model."
        )
    reading = reading_of(family, diffusers=path.is_dir())
    paths = encoder_paths(path, text_encoders)
    files = [folder_weights(one) if one.is_dir() else opened_tensors(one) for one in paths]
    text = find_encoder(files, reading)
    clips = _clips(family, reading, files, paths)
    folders = (*([path] if path.is_dir() else []), *(one for one in map(Path, text_encoders) if one.is_dir()))
    return RowModelFile(
        family, file, prefix, clips, text=text, reading=reading, folders=folders, own_projections=path.is_dir()
    )


def _clips(
    family: Family, reading: RowReading, files: Sequence[Tensors], paths: Sequence[Path]
) -> tuple[TextEncoderFile, ...]:
    """The CLIPs that a family reads beside another text encoder: Flux.1's if it is there, both of Stable Diffusion 3.

    Raises:
        ModelFileError: there are more, or Stable Diffusion 3 lacks one.
    """
    if family.layout != "behind":
        return open_clips(files, ["clip_l"], paths) if reading.pooled else ()
    found = open_clips(files, [one.encoder for one in CLIPS], paths)
    if len(found) < len(CLIPS):
        there = ", ".join(f"one {clip.tower.width} wide" for clip in found) or "none"
        raise ModelFileError(
            f"{family.title} reads CLIP-L and CLIP-G beside T5; found {there} in {', '.join(map(str, paths))}. Name "
            "the files of all that the model's own does not hold: --text-encoder FILE, again and again."
        )
    return found


def image_family(model: Path | str) -> Family | None:
    """The family of the image model in a file or folder; None where there is none that is known and can be read."""
    try:
        return family_of(shapes_below(*_image_model(Path(model))))
    except (ModelFileError, DoorError, TensorFileError):
        return None


def _image_model(path: Path) -> tuple[Tensors, str]:
    """The tensors that hold the image model, and what stands before their names."""
    if path.is_dir():
        for folder in _FOLDERS:
            if (path / folder).is_dir():
                return folder_weights(path / folder, _FOLDER_FILES), ""
    else:
        file = opened_tensors(path)
        for prefix in _PREFIXES[:-1]:
            if any(name.startswith(prefix) for name in file.places):
                return file, prefix
        if _is_image_model(file):
            return file, ""
    raise ModelFileError(
        f"{path.name or path} holds no image model that can be edited. Expected a checkpoint (with {_PREFIXES[0]}...), "
        f"a file of an image model alone, or a diffusers folder (with {' or '.join(_FOLDERS)} in it), as safetensors."
    )


def _is_image_model(file: Tensors) -> bool:
    """Whether a file without a prefix is of a known family."""
    try:
        return bool(family_of(shapes_below(file, "")))
    except DoorError:
        return False
