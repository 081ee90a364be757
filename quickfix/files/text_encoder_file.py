"""A CLIP text encoder inside a model file, of which only the tensors that an edit needs are read.

Found by what the tensors are called, wherever they stand in the file:

* transformers' and ComfyUI's names, ``<prefix>encoder.layers.0.self_attn...``: Stable Diffusion 1.x checkpoints, the
  first encoder of SDXL, a diffusers folder's ``text_encoder``, a bare text encoder;
* OpenCLIP's names, ``<prefix>transformer.resblocks.0.attn...``: Stable Diffusion 2.x checkpoints, SDXL's second one.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import torch

from ...families.clip import ENCODERS
from ...text.prompts import PromptTokenizer
from ...text.vocabulary import ClipTokenizer, find_vocabulary
from ..encoder.tower import TOKEN_POSITIONS, TOKENS, TextTower
from ..measure.weight_edit import WeightEdit
from .shards import ShardedTensors, indexed_shards, shards_of
from .tensor_file import TensorFile

_HEAD_WIDTH = 64
# Tensors kept: the attention and the norms of one layer, and the positions.
_RECENT = 16
_WIDTHS = {768: "clip_l", 1024: "clip_h", 1280: "sdxl_clip_g"}
# How files call what the tower calls its positions and its tokens, and the first layer's output projection.
_TRANSFORMERS = (TOKEN_POSITIONS, TOKENS, TextTower.out_proj_name(0))
_OPENCLIP = ("positional_embedding", "token_embedding.weight", "transformer.resblocks.0.attn.out_proj.weight")
_OPENCLIP_PARTS = (
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.resblocks.\1.attn.out_proj."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"final_layer_norm\.", "ln_final."),
    (r"embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"embeddings\.token_embedding\.", "token_embedding."),
)
_FUSED = r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)"
_FOLDER_FILES = ("model.safetensors", "model.fp16.safetensors")


class ModelFileError(ValueError):
    """A file or folder in which no text encoder, or no single one, was found."""


class SeveralEncodersError(ModelFileError):
    """A model with several text encoders, none of which was asked for by name."""


# Where the weights of a text encoder lie.
Tensors = TensorFile | ShardedTensors


class TableRows:
    """A table in a file, as much of a tensor as the tower asks of its token embeddings: shape, device and rows."""

    device = torch.device("cpu")

    def __init__(self, file: Tensors, name: str) -> None:
        self._file, self._name = file, name
        self.shape = file.places[name].shape

    def detach(self) -> TableRows:
        return self

    def __getitem__(self, numbers: torch.Tensor) -> torch.Tensor:
        return self._file.rows(self._name, numbers)


class FileWeights(Mapping[str, torch.Tensor]):
    """CLIP's parameter names to tensors of a file, in fp32; those of one layer are kept, older ones are read anew."""

    def __init__(self, file: Tensors, prefix: str, openclip: bool) -> None:
        self._file, self._prefix, self._openclip = file, prefix, openclip
        self._recent = lru_cache(_RECENT)(self._read)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._recent(name)

    def _read(self, name: str) -> torch.Tensor:
        if name == TOKENS:
            return cast(torch.Tensor, TableRows(self._file, self.stored_name(name)))
        if self._openclip and (match := re.fullmatch(_FUSED, name)):
            return self._projection(int(match[1]), match[2], match[3]).float()
        return self._file.tensor(self.stored_name(name)).float()

    def __iter__(self) -> Iterator[str]:
        return (name.removeprefix(self._prefix) for name in self._file.places if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def stored_name(self, name: str) -> str:
        """What the file calls a parameter (not the fused q, k and v of OpenCLIP)."""
        if self._openclip:
            for ours, theirs in _OPENCLIP_PARTS:
                name = re.sub(ours, theirs, name)
        return self._prefix + name

    def layers(self) -> int:
        """Number of transformer layers."""
        start = "transformer.resblocks." if self._openclip else "encoder.layers."
        numbers = {name[len(start) :].split(".")[0] for name in self if name.startswith(start)}
        return 1 + max(int(number) for number in numbers if number.isdecimal())

    def text_projection(self) -> torch.Tensor:
        """The matrix (vector, width) that makes the pooled vector of a prompt out of the state at its end.

        Raises:
            ModelFileError: the file holds none.
        """
        bare = self._prefix.removesuffix("text_model.")
        if f"{bare}text_projection.weight" in self._file.places:
            return self._file.tensor(f"{bare}text_projection.weight").float()
        # OpenCLIP multiplies from the other side.
        if f"{bare}text_projection" in self._file.places:
            return self._file.tensor(f"{bare}text_projection").float().T
        raise ModelFileError(
            f"{self._file.path.name} lacks {bare}text_projection, from which SDXL's pooled vector is made. Take a "
            "whole checkpoint."
        )

    def _projection(self, layer: int, part: str, kind: str) -> torch.Tensor:
        """One third of OpenCLIP's fused in_proj."""
        name = f"{self._prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"
        width = self._file.places[name].shape[0] // 3
        return self._file.rows(name, torch.arange(width) + width * "qkv".index(part))


@dataclass(frozen=True)
class TextEncoderFile:
    """A text encoder in a file.

    Attributes:
        encoder: which one it is, a key of :data:`~.families.clip.ENCODERS`.
        tower: reads the file when its weights are asked for.
        file: the file that holds it.
        vocabulary: the folder of the model's own tokenizer, where it brings one.
    """

    encoder: str
    tower: TextTower
    file: Tensors
    vocabulary: Path | None = None

    def stored_name(self, weight_name: str) -> str:
        """What the file calls one of the tower's weights."""
        return self._weights().stored_name(weight_name)

    def stored_dtype(self, weight_name: str) -> torch.dtype:
        """The type in which the file keeps one of the tower's weights.

        Raises:
            TensorFileError: no plain float type (quantized weights).
        """
        return self.file.dtype(self.stored_name(weight_name))

    def deltas(self, edit: WeightEdit, strength: float = 1.0) -> dict[str, torch.Tensor]:
        """What an edit adds to tensors of the file, by the file's names."""
        return {self.stored_name(edit.weight_name): edit.delta(strength)}

    def whole_tower(self) -> TextTower:
        """The tower with all layers of the file, those too that its image model does not read."""
        return dataclasses.replace(self.tower, num_layers=self._weights().layers())

    def text_projection(self) -> torch.Tensor:
        """:meth:`FileWeights.text_projection`."""
        return self._weights().text_projection()

    def _weights(self) -> FileWeights:
        return cast(FileWeights, self.tower.weights)

    def tokenizer(self, *folders: Path | str | None) -> PromptTokenizer:
        """The tokenizer, with the vocabulary of the first of some folders that has one, else the model's own, else any
        that :func:`~..vocabulary.find_vocabulary` finds (FileNotFoundError: none).
        """
        tokenizer = ClipTokenizer(find_vocabulary(*folders, self.vocabulary))
        context_length = self.file.places[self.stored_name(TOKEN_POSITIONS)].shape[0]
        return PromptTokenizer(tokenizer, pad_token=ENCODERS[self.encoder].pad_token, context_length=context_length)


@dataclass(frozen=True)
class _Found:
    """A tower as it was found."""

    file: Tensors
    prefix: str
    openclip: bool
    width: int

    def opened(self, encoder: str, vocabulary: Path | None) -> TextEncoderFile:
        weights, config = FileWeights(self.file, self.prefix, self.openclip), self._config()
        heads = config.get("num_attention_heads", self.width // _HEAD_WIDTH)
        if type(heads) is not int or not 0 < heads <= self.width or (not config and self.width not in _WIDTHS):
            raise ModelFileError(
                f"{self.file.path.name} holds a text encoder {self.width} wide, which is none of Stable Diffusion's. "
                f"Expected one of {', '.join(map(str, _WIDTHS))}, or its config.json beside the file."
            )
        activation = config.get("hidden_act", ENCODERS[encoder].activation)
        layers = weights.layers()
        if layers == ENCODERS[encoder].depth:
            layers -= ENCODERS[encoder].skipped
        tower = TextTower.from_weights(weights, heads=heads, activation=activation, num_layers=layers, encoder=encoder)
        return TextEncoderFile(encoder, tower, self.file, vocabulary)

    def _config(self) -> dict[str, Any]:
        """The config.json beside the file, if it is about this tower."""
        try:
            config = json.loads((self.file.path.parent / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return config if isinstance(config, dict) and config.get("hidden_size") == self.width else {}


def open_text_encoder(model: Path | str, encoder: str | None = None) -> TextEncoderFile:
    """Find the text encoder of a model on disk; nothing but headers is read.

    Args:
        model: a single-file checkpoint or text encoder (safetensors), or a diffusers folder.
        encoder: which one to take, a key of :data:`~.families.clip.ENCODERS`; needed where a model has several.

    Raises:
        ModelFileError: no text encoder was found, several were, or not the one asked for.
        TensorFileError: the file cannot be read.
    """
    path = Path(model)
    if encoder is not None and encoder not in ENCODERS:
        raise ModelFileError(f"Unknown text encoder {encoder!r}; expected one of {', '.join(ENCODERS)}.")
    files = _files(path)
    towers = [tower for file in files for tower in _towers(file)]
    name, tower = _chosen(_name(path), towers, encoder, several=len(files) > 1 or any(map(_holds_t5, files)))
    return tower.opened(name, _tokenizer_folder(path, tower))


def open_all_encoders(
    model: Path | str, encoders: Sequence[str], others: Sequence[Path | str] = ()
) -> tuple[TextEncoderFile, ...]:
    """The text encoders of a model on disk, all of them; nothing but headers is read.

    Args:
        model: a single-file checkpoint (safetensors), or a diffusers folder.
        encoders: which they are, keys of :data:`~.families.clip.ENCODERS`, the narrowest first.
        others: files or folders of text encoders that are not in the model.

    Raises:
        ModelFileError: there are more or fewer.
        TensorFileError: a file cannot be read.
    """
    path = Path(model)
    files = [file for one in (path, *map(Path, others)) for file in _files(one)]
    towers = sorted((tower for file in files for tower in _towers(file)), key=lambda tower: tower.width)
    if len(towers) != len(encoders):
        found = ", ".join(f"one {tower.width} wide" for tower in towers) or "none"
        raise ModelFileError(
            f"{_name(path)} holds {len(towers)} CLIP text encoders ({found}); expected {len(encoders)} "
            f"({', '.join(encoders)}). Take a whole checkpoint, a diffusers folder with its text encoders, or name "
            "their files: --text-encoder FILE."
        )
    return tuple(
        tower.opened(name, _tokenizer_folder(path, tower)) for name, tower in zip(encoders, towers, strict=True)
    )


def open_clips(files: Sequence[Tensors], encoders: Sequence[str], paths: Sequence[Path]) -> tuple[TextEncoderFile, ...]:
    """The CLIP text encoders in some files, the narrowest first, as many as are there.

    Args:
        encoders: which they are at most, keys of :data:`~.families.clip.ENCODERS`.
        paths: where each file was found.

    Raises:
        ModelFileError: there are more.
    """
    found = [(tower, path) for file, path in zip(files, paths, strict=True) for tower in _towers(file)]
    if len(found) > len(encoders):
        raise ModelFileError(
            f"Found {len(found)} CLIP text encoders in {', '.join(map(str, paths))}; expected {len(encoders)}."
        )
    found.sort(key=lambda one: one[0].width)
    return tuple(
        tower.opened(name, _own_vocabulary(tower) if path.is_dir() else None)
        for name, (tower, path) in zip(encoders, found, strict=False)
    )


def _files(path: Path) -> list[Tensors]:
    """The files that may hold text encoders."""
    return [folder_weights(folder) for folder in _encoder_folders(path)] if path.is_dir() else [opened_tensors(path)]


def _tokenizer_folder(path: Path, tower: _Found) -> Path | None:
    return _own_vocabulary(tower) if path.is_dir() else None


def _own_vocabulary(tower: _Found) -> Path:
    own = tower.file.path.absolute().parent
    return own.parent / own.name.replace("text_encoder", "tokenizer")


def _encoder_folders(path: Path) -> list[Path]:
    """The text encoders of a diffusers folder, or the folder itself where it is one; none for a file."""
    if not path.is_dir():
        return []
    inner = [path / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")]
    return [folder for folder in inner if folder.is_dir()] or [path]


def _name(path: Path) -> str:
    """What a file or folder is called, for one that is given as "." too."""
    return path.name or path.resolve().name or str(path)


def opened_tensors(file: Path) -> Tensors:
    """A file of weights; with one of several that belong together, all of them."""
    shards = shards_of(file)
    return ShardedTensors(shards) if shards else TensorFile(file)


def folder_weights(folder: Path, files: Sequence[str] = _FOLDER_FILES) -> Tensors:
    """The weights in a folder: one file, or several that an index or their names tell of.

    Args:
        files: names to look for, the best first.

    Raises:
        ModelFileError: there are none.
        TensorFileError: a file cannot be read.
    """
    for name in files:
        if (folder / name).is_file():
            return TensorFile(folder / name)
    if shards := indexed_shards(folder):
        return ShardedTensors(shards)
    first = next(iter(sorted(folder.glob("*.safetensors"))), None)
    if first is not None:
        return opened_tensors(first)
    raise ModelFileError(
        f"The folder {_name(folder)} holds no {files[0]}. Expected a diffusers folder (with text_encoder in it) or a "
        "text encoder's folder, with safetensors weights."
    )


def _towers(file: Tensors) -> list[_Found]:
    found = []
    for (positions, tokens, projection), openclip in ((_TRANSFORMERS, False), (_OPENCLIP, True)):
        for name, place in file.places.items():
            prefix = name.removesuffix(positions)
            if name == prefix + positions and {prefix + tokens, prefix + projection} <= file.places.keys():
                found.append(_Found(file, prefix, openclip, place.shape[-1] if place.shape else 0))
    return found


def _holds_t5(file: Tensors) -> bool:
    return any("encoder.block.0.layer.0.SelfAttention" in name for name in file.places)


def _chosen(model: str, towers: list[_Found], encoder: str | None, *, several: bool) -> tuple[str, _Found]:
    """The tower to take and its name in :data:`~.families.clip.ENCODERS`."""
    if not towers:
        raise ModelFileError(
            f"{model} holds no CLIP text encoder. Expected a Stable Diffusion checkpoint, a diffusers folder, or a "
            "CLIP text encoder, as safetensors."
        )
    names = [_WIDTHS.get(tower.width, "clip_l") for tower in towers]
    widths = [tower.width for tower in towers]
    if names == ["clip_l"] * 2 and widths[0] != widths[1]:
        # Two of no known width, as in small models: the wider one stands where SDXL's does.
        names = ["sdxl_clip_g" if width == max(widths) else "clip_l" for width in widths]
    if len(set(names)) < len(names):
        prefixes = ", ".join(repr(tower.prefix) for tower in towers)
        raise ModelFileError(f"{model} holds several text encoders of one size, under {prefixes}; expected one each.")
    if several or len(towers) > 1 or "sdxl_clip_g" in names:
        names = ["sdxl_clip_l" if name == "clip_l" else name for name in names]
        if encoder is None:
            raise SeveralEncodersError(
                f"{model} is a model with several text encoders, such as SDXL; editable are {', '.join(names)}. Such "
                "models hold no single causal state in a text encoder (arXiv 2405.01008), and an edit reaches only a "
                "part of what they know. Name the encoder to edit it all the same."
            )
    elif encoder == "sdxl_clip_l" and names == ["clip_l"]:
        # A bare CLIP-L is the same in all families; only its name in LoRA files differs.
        names = [encoder]
    if encoder is not None and encoder not in names:
        raise ModelFileError(f"{model} has no text encoder {encoder}; it has {', '.join(names)}.")
    number = names.index(encoder) if encoder else 0
    return names[number], towers[number]
