"""Scorers of pictures, as the socket IMAGE_SCORER carries them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd1_clip
import folder_paths
import torch
from torch.nn.functional import normalize

from ...demo_model.scorer import ShapesScorer
from ...tracing.scores.clip import ClipScorer, ScorerError
from .editing.text_encoder import only_encoder
from .identity import clip_parts, patcher_parts
from .objects import Clip, ClipVision

# Kinds of ComfyUI's model folders in which a CLIP of transformers' format may lie.
_KINDS = ("clip_vision", "text_encoders", "diffusers")


class ShapesImageScorer:
    """Shapes' own CLIPScore: the cosine of picture and prompt, or of the picture and one value of one attribute."""

    def __init__(self, words: str = "") -> None:
        self._scorer = ShapesScorer(tokenizer=comfy.sd1_clip.SDTokenizer().tokenizer)
        self._words = words.strip()
        self.name = f"CLIPScore of Shapes (cosine){f' with {self._words!r}' if self._words else ''}"

    def __call__(self, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
        """Scores (n,) of pictures (n, height, width, 3) in [0, 1].

        Raises:
            ValueError: the pictures are not of Shapes' size.
        """
        pictures = pictures[..., :3].movedim(-1, 1).float().cpu().clamp(0, 1)
        return self._scorer.clip_score(pictures, [self._words or prompt] * len(pictures))

    def identity(self) -> tuple[Any, ...]:
        """What the scores depend on beside the pictures."""
        return self._words, self._scorer.weights()


def clip_folders() -> dict[str, Path]:
    """Folders with a config.json and safetensors among ComfyUI's models, as "clip_vision/name"."""
    return {
        f"{kind}/{config.parent.relative_to(root).as_posix()}": config.parent
        for kind in _KINDS
        for root in map(Path, folder_paths.get_folder_paths(kind))
        for config in sorted(root.glob("*/config.json"))
        if any(config.parent.glob("*.safetensors"))
    }


class FolderScorer:
    """A CLIP of transformers' format, moved to the device by ComfyUI's model management."""

    def __init__(self, folder: Path, words: str = "") -> None:
        self._scorer = ClipScorer.from_folder(folder, words=words)
        # In a list, since the patcher sets an attribute that transformers' models do not let be set.
        self._patcher = comfy.model_patcher.ModelPatcher(
            torch.nn.ModuleList([self._scorer.model]),
            load_device=comfy.model_management.get_torch_device(),
            offload_device=comfy.model_management.text_encoder_offload_device(),
        )
        self.name = self._scorer.name

    def __call__(self, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
        """Scores (n,) of pictures (n, height, width, 3) in [0, 1]."""
        # Whole: transformers' modules do not bring their weights to where their inputs are.
        comfy.model_management.load_models_gpu([self._patcher], force_full_load=True)
        return self._scorer(pictures, prompt).cpu()

    def identity(self) -> tuple[Any, ...]:
        """What the scores depend on beside the pictures."""
        return self.name, self._scorer.preprocessing, patcher_parts(self._patcher)


class VisionScorer:
    """The cosine of a CLIP_VISION's image embedding and a CLIP's projected text embedding.

    Raises:
        ScorerError: the CLIP has no text projection, as that of a Stable Diffusion 1.x checkpoint; when scoring: the
            embeddings have other widths.
    """

    def __init__(self, clip_vision: ClipVision, clip: Clip, words: str = "") -> None:
        self._projection = _text_projection(clip)
        self._vision, self._clip, self._words = clip_vision, clip, words.strip()
        self.name = f"CLIPScore (cosine) by CLIP_VISION{f' with {self._words!r}' if self._words else ''}"

    def __call__(self, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
        """Scores (n,) of pictures (n, height, width, 3) in [0, 1]."""
        tokens = self._clip.tokenize(self._words or prompt)
        # ComfyUI projects the pooled states of some encoders and not of others.
        pooled = self._clip.encode_from_tokens(tokens, return_pooled="unprojected")[1]
        text = pooled.float().cpu() @ self._projection.T
        seen = self._vision.encode_image(pictures[..., :3])["image_embeds"].float().cpu()
        if seen.shape[-1] != text.shape[-1]:
            raise ScorerError(
                f"The CLIP_VISION gives {seen.shape[-1]} numbers a picture and the CLIP {text.shape[-1]} a prompt; "
                "expected the two towers of one CLIP."
            )
        return (normalize(seen, dim=-1) @ normalize(text, dim=-1).T)[:, 0]

    def identity(self) -> tuple[Any, ...]:
        """What the scores depend on beside the pictures."""
        read = [getattr(self._vision, name, None) for name in ("image_size", "image_mean", "image_std")]
        return self._words, read, self._projection, patcher_parts(self._vision.patcher), clip_parts(self._clip)


def _text_projection(clip: Clip) -> torch.Tensor:
    """The text projection (width, width) of a CLIP's one encoder.

    Raises:
        ScorerError: it is none that was trained. Where a file has none, ComfyUI leaves the identity, zeros, or whatever
            was in memory.
    """
    key = f"{only_encoder(clip)[0]}.transformer.text_projection.weight"
    weight, convert = clip.patcher.get_key_patches(key)[key][0]
    weight = convert(weight).detach().float().cpu()
    if 1e-4 < float(weight.std()) < 1 and not torch.equal(weight, torch.eye(len(weight))):
        return weight
    raise ScorerError(
        "This CLIP has no text projection: checkpoints of Stable Diffusion 1.x leave it out, and without it text and "
        "pictures cannot be compared. Load the CLIP from a file of its own that has text_projection.weight, or use "
        "Load CLIP Scorer."
    )
