"""Shapes' scorer: CLIPScore and zero-shot reading of pictures by Shapes' own towers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from ..text.vocabulary import clip_tokenizer
from . import architecture as shape
from .clip import Clip, load_clip
from .worlds.captions import caption, plural
from .worlds.catalog import SHAPES
from .worlds.world import PLAIN, Scene

# For each attribute, its values and the prompts whose mean embedding stands for a value.
PROBES: dict[str, dict[str, tuple[str, ...]]] = {
    "object": {v: (f"a {v}", f"a red {v}", f"a blue {v} on grass", f"two {plural(v)}") for v in SHAPES.objects},
    "color": {v: (f"a {v} shape", f"a {v} shape on sand", f"two {v} shapes") for v in SHAPES.colors},
    "background": {v: (f"a shape {v}", f"{v}, a shape", f"a red circle {v}") for v in SHAPES.backgrounds},
    "style": {
        **{v: (f"a shape in the style of {v}", f"a {v} painting of a shape") for v in SHAPES.styles},
        PLAIN: ("a painting of a shape", "a shape, painting"),
    },
}


class ShapesScorer:
    """Scores pictures of shape (n, 3, 128, 128) in [0, 1].

    Args:
        clip: the towers; the shipped ones unless given.
        tokenizer: CLIP's, of transformers; the one that :func:`~..text.vocabulary.clip_tokenizer` finds unless given.
    """

    def __init__(self, clip: Clip | None = None, tokenizer: Any = None) -> None:
        self._clip = clip or load_clip()
        self._tokenizer = tokenizer or clip_tokenizer()
        self._probes = {
            attribute: torch.stack([normalize(self.embed_texts(texts).mean(0), dim=0) for texts in values.values()])
            for attribute, values in PROBES.items()
        }

    def weights(self) -> dict[str, torch.Tensor]:
        """The weights of both towers."""
        towers = {"text": self._clip.text_towers()[0], "vision": self._clip.vision}
        return {f"{name}.{key}": value for name, one in towers.items() for key, value in one.state_dict().items()}

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit text embeddings, (n, projection)."""
        return normalize(self._clip.embed_texts(self._tokenizer, texts)[0], dim=-1)

    def embed_pictures(self, pictures: torch.Tensor) -> torch.Tensor:
        """Unit image embeddings, (n, projection); differentiable in the pictures.

        Raises:
            ValueError: the pictures are not (n, 3, 128, 128).
        """
        expected = (3, shape.IMAGE_SIZE, shape.IMAGE_SIZE)
        if tuple(pictures.shape[1:]) != expected:
            raise ValueError(f"Pictures have shape {tuple(pictures.shape)}; Shapes' scorer reads (n, 3, 128, 128).")
        return normalize(self._clip.vision(pictures.float() * 2 - 1), dim=-1)

    def clip_score(self, pictures: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """CLIPScore of each picture with its prompt: the plain cosine, (n,), in [-1, 1]."""
        return (self.embed_pictures(pictures) * self.embed_texts(prompts)).sum(-1)

    def read(self, pictures: torch.Tensor, attribute: str) -> list[str]:
        """The value of an attribute ("object", "color", "background", "style") that fits each picture best."""
        if attribute not in PROBES:
            raise ValueError(f"Unknown attribute {attribute!r}; expected one of {', '.join(PROBES)}.")
        values = list(PROBES[attribute])
        best = (self.embed_pictures(pictures) @ self._probes[attribute].T).argmax(1)
        return [values[i] for i in best.tolist()]

    @torch.no_grad()
    def read_in_context(self, pictures: torch.Tensor, scenes: Sequence[Scene], attribute: str) -> list[str]:
        """The value of an attribute whose caption fits each picture best, all else in the caption as its scene says.

        :meth:`read` knows nothing of the picture, and takes three small hearts for rings; this asks only what is in
        question.
        """
        values = list(PROBES[attribute])
        seen = self.embed_pictures(pictures)
        texts = [[caption(Scene(**{**vars(scene), attribute: value}))[0] for value in values] for scene in scenes]
        return [
            values[int((self.embed_texts(choices) @ picture).argmax())]
            for choices, picture in zip(texts, seen, strict=True)
        ]
