"""Scores of a run: larger is nearer to what the prompt asks for."""

from __future__ import annotations

import torch

LATENT_DISTANCE = "negative RMS distance of the final latent to the clean run's (0 = the clean picture)"


def latent_distance(results: torch.Tensor, clean: torch.Tensor, prompt: str) -> torch.Tensor:
    """Minus the root mean square difference to the clean run's final latent, (rows,); needs no other model.

    The clean run scores 0 exactly when it is its own reference. It measures everything that changed in the picture,
    the subject or not; a CLIPScore measures what the prompt says.
    """
    difference = (results - clean.to(results)).float().flatten(1)
    return -difference.square().mean(1).sqrt()
