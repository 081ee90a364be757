"""What the pack uses of ComfyUI's objects, as types: MODEL, CLIP, VAE, CLIP_VISION, CONDITIONING, LATENT and guiders.

They are protocols, so that an object of another pack that has these attributes will do, and so that mypy, which does
not see ComfyUI, checks the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch

# What the socket CONDITIONING carries: entries [text states (batch, tokens, width), options].
Conditioning = list[Any]
# What the socket LATENT carries: "samples" (batch, channels, height, width), and perhaps "noise_mask", "batch_index".
Latent = Mapping[str, Any]
# One conditioning inside a guider: "cross_attn", "uuid" and the options.
Entry = dict[str, Any]


class Patcher(Protocol):
    """ModelPatcher: what holds a network's weights and patches and moves them between devices."""

    model: Any
    patches: dict[str, list[Any]]
    object_patches: dict[str, Any]
    model_options: dict[str, Any]
    load_device: torch.device

    def clone(self) -> Self: ...

    def add_patches(self, patches: Mapping[str, Any], strength_patch: float = 1.0) -> list[str]: ...

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]: ...

    def add_callback_with_key(self, call_type: str, key: str, callback: Callable[..., None]) -> None: ...


class Model(Patcher, Protocol):
    """What the socket MODEL carries; ``model.diffusion_model`` is the UNet or transformer."""

    def add_object_patch(self, name: str, obj: Any) -> None: ...

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Callable[..., Any]) -> None: ...

    def get_model_object(self, name: str) -> Any: ...

    def model_size(self) -> int: ...


class Clip(Protocol):
    """What the socket CLIP carries."""

    cond_stage_model: torch.nn.Module
    tokenizer: Any
    patcher: Patcher
    layer_idx: int | None

    def clone(self) -> Self: ...

    def add_patches(self, patches: Mapping[str, Any], strength_patch: float = 1.0) -> list[str]: ...

    def tokenize(self, text: str, return_word_ids: bool = False) -> dict[str, list[list[tuple[Any, ...]]]]: ...

    def encode_from_tokens(
        self, tokens: Mapping[str, Any], return_pooled: bool | str = False, return_dict: bool = False
    ) -> Any: ...

    def encode_from_tokens_scheduled(self, tokens: Mapping[str, Any], *, show_pbar: bool = True) -> Conditioning: ...


class Vae(Protocol):
    """What the socket VAE carries."""

    patcher: Patcher

    def decode(self, samples_in: torch.Tensor) -> torch.Tensor:
        """Latents to pictures (n, height, width, 3) in [0, 1]."""
        ...


class ClipVision(Protocol):
    """What the socket CLIP_VISION carries."""

    patcher: Patcher

    def encode_image(self, image: torch.Tensor) -> Mapping[str, torch.Tensor]: ...


class Sampler(Protocol):
    """What the socket SAMPLER carries; those of k-diffusion have ``sampler_function``, too."""

    def sample(self, *args: Any, **kwargs: Any) -> torch.Tensor: ...


class Guider(Protocol):
    """What the socket GUIDER carries, while it samples."""

    model_patcher: Model
    model_options: dict[str, Any]
    conds: dict[str, list[Entry]]


class Executor(Protocol):
    """What ComfyUI gives a wrapper: call it to go on; ``class_obj`` is the object whose method is wrapped."""

    class_obj: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


class ImageScorer(Protocol):
    """What the socket IMAGE_SCORER carries."""

    name: str

    def __call__(self, pictures: torch.Tensor, prompt: str) -> torch.Tensor:
        """Pictures (n, height, width, 3) in [0, 1] and a prompt to (n,) numbers."""
        ...
