"""CLIPScore with any CLIP of transformers' format: the plain cosine of picture and text (arXiv 2104.08718).

Hessel et al. scale it by 2.5 and clamp it at 0; here it is neither, so that effects stay signed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import interpolate, normalize

# OpenAI's normalization of pixels, for a folder without preprocessor_config.json.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class ScorerError(ValueError):
    """A folder or a pair of towers that cannot score pictures."""


def preprocess(
    pictures: torch.Tensor, size: int, mean: tuple[float, ...] = _MEAN, std: tuple[float, ...] = _STD
) -> torch.Tensor:
    """Pictures (n, height, width, 3) in [0, 1] as CLIP sees them: their middle (n, 3, size, size), normalized."""
    pixels = pictures[..., :3].movedim(-1, 1).float()
    height, width = pixels.shape[2:]
    scale = size / min(height, width)
    shape = [max(size, round(height * scale)), max(size, round(width * scale))]
    pixels = interpolate(pixels, shape, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (shape[0] - size) // 2, (shape[1] - size) // 2
    pixels = pixels[:, :, top : top + size, left : left + size]
    return (pixels - pixels.new_tensor(mean)[:, None, None]) / pixels.new_tensor(std)[:, None, None]


class ClipScorer:
    """CLIPScore of pictures (n, height, width, 3) in [0, 1] with a prompt; differentiable in the pictures.

    Args:
        model: transformers' ``CLIPModel``.
        tokenizer: transformers' ``CLIPTokenizer``.
        words: what pictures are compared with in place of their prompt.
        label: names the CLIP in the trace's score.

    Attributes:
        preprocessing: side of the pictures in pixels, mean and standard deviation of their channels.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        words: str = "",
        label: str = "CLIP",
        mean: tuple[float, ...] = _MEAN,
        std: tuple[float, ...] = _STD,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._words = words.strip()
        self.preprocessing = (int(model.config.vision_config.image_size), mean, std)
        self.name = f"CLIPScore (cosine) by {label}{f' with {self._words!r}' if self._words else ''}"

    @classmethod
    def from_folder(cls, folder: Path, *, words: str = "") -> ClipScorer:
        """A CLIP in transformers' format: config.json, safetensors weights, the tokenizer's files. No network is used.

        Raises:
            ScorerError: something is missing, or it is another kind of model.
        """
        _check_folder(folder)
        from transformers import CLIPModel, CLIPTokenizer

        model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        mean, std = _normalization(folder / "preprocessor_config.json")
        return cls(model.float(), tokenizer, words=words, label=folder.name, mean=mean, std=std)

    def __call__(self, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
        """Cosines (n,). A prompt beyond the context length is cut off at its end."""
        device = self.model.device
        ids = self._tokenizer(
            self._words or prompt,
            truncation=True,
            return_tensors="pt",
            max_length=self.model.config.text_config.max_position_embeddings,
        )["input_ids"]
        text = normalize(_features(self.model.get_text_features(input_ids=ids.to(device))), dim=-1)
        pixels = preprocess(pictures.to(device), *self.preprocessing)
        seen = normalize(_features(self.model.get_image_features(pixel_values=pixels)), dim=-1)
        return (seen @ text.T)[:, 0]


def _features(found: Any) -> torch.Tensor:
    # transformers 5 returns an output object whose pooler_output is the projected embedding.
    return found if isinstance(found, torch.Tensor) else found.pooler_output


def _check_folder(folder: Path) -> None:
    wanted = "expected a CLIP in transformers' format, such as a copy of openai/clip-vit-large-patch14"
    config = folder / "config.json"
    if not config.is_file():
        raise ScorerError(f"{folder.name} has no config.json; {wanted}.")
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ScorerError(f"{folder.name} has a damaged config.json ({error}); {wanted}.") from error
    if kind != "clip":
        raise ScorerError(f"{folder.name} holds a model of type {kind!r}; {wanted}, with both of its towers.")
    if not list(folder.glob("*.safetensors")):
        raise ScorerError(f"{folder.name} has no weights as safetensors; {wanted}, and no pickled .bin files.")
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ScorerError(f"{folder.name} has no tokenizer (tokenizer.json, or vocab.json and merges.txt); {wanted}.")


def _normalization(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if not path.is_file():
        return _MEAN, _STD
    settings = json.loads(path.read_text(encoding="utf-8"))
    return tuple(settings.get("image_mean", _MEAN)), tuple(settings.get("image_std", _STD))
