"""Scorers of pictures, as the socket IMAGE_SCORER carries them."""

from __future__ import annotations

import torch

from ...demo_model.scorer import ShapesScorer


class ShapesImageScorer:
    """Shapes' own CLIPScore: the cosine of picture and prompt, or of the picture and one value of one attribute."""

    def __init__(self, words: str = "") -> None:
        self._scorer = ShapesScorer()
        self._words = words.strip()
        self.name = f"CLIPScore of Shapes (cosine){f' with {self._words!r}' if self._words else ''}"

    def __call__(self, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
        """Scores (n,) of pictures (n, height, width, 3) in [0, 1].

        Raises:
            ValueError: the pictures are not of Shapes' size.
        """
        pictures = pictures[..., :3].movedim(-1, 1).float().cpu().clamp(0, 1)
        return self._scorer.clip_score(pictures, [self._words or prompt] * len(pictures))


