"""The miniatures as pipelines of diffusers' own classes, for everything that is written for these.

pipe = shapes_pipeline()
pipe("a red circle on grass, in the style of van gogh", num_inference_steps=20, guidance_scale=5.0).images
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from ..text.other_tokenizers import tokenizer_folder
from ..text.vocabulary import find_vocabulary
from . import architecture as shape
from .architecture import SHAPES_DIT, SHAPES_SD1, SHAPES_XL, Architecture, FluxArchitecture, Miniature, TextTower
from .autoencoder import Autoencoder
from .pipeline import load_autoencoder
from .t5 import T5_PREFIX
from .weights import load_part

_PAD_TOKENS = {shape.EOS: "<|endoftext|>", 0: "!"}


class PipelineAutoencoder(torch.nn.Module):
    """The autoencoder under the names that pipelines call it by."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        from diffusers.configuration_utils import FrozenDict

        super().__init__()
        self.autoencoder = autoencoder
        # As many numbers of channels as the picture is halved, and one.
        self.config = FrozenDict(
            block_out_channels=(1,) * 4, scaling_factor=1.0, shift_factor=0.0, latent_channels=shape.LATENT_CHANNELS
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def decode(self, latents: torch.Tensor, return_dict: bool = True, **_: Any) -> Any:
        """Pictures (n, 3, height, width) in [-1, 1]."""
        decoded = self.autoencoder.decode(latents)
        return SimpleNamespace(sample=decoded) if return_dict else (decoded,)


def shapes_pipeline(architecture: Architecture = SHAPES_SD1, *folders: Path | str) -> Any:
    """Shapes as a StableDiffusionPipeline, in fp32 on the CPU.

    Args:
        folders: where CLIP's vocabulary is looked for, beside the ComfyUI that the pack lies in: a ComfyUI's folder, or
            the tokenizer's of any Stable Diffusion.

    Raises:
        FileNotFoundError: the weights or the CLIP vocabulary are missing.
    """
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    ((name, tower),) = architecture.texts.items()
    return StableDiffusionPipeline(
        vae=_vae(architecture),  # type: ignore[arg-type]
        text_encoder=_clip_text(architecture, name, tower),
        tokenizer=_clip_tokenizer(tower, folders),
        unet=_unet(architecture),
        scheduler=DDIMScheduler(**shape.SCHEDULER_CONFIG),
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def shapes_xl_pipeline(architecture: Architecture = SHAPES_XL, *folders: Path | str) -> Any:
    """Shapes XL as a StableDiffusionXLPipeline, in fp32 on the CPU; ``folders`` as for :func:`shapes_pipeline`.

    Raises:
        FileNotFoundError: the weights or the CLIP vocabulary are missing.
    """
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    small, large = architecture.texts.items()
    projected = CLIPTextModelWithProjection(CLIPTextConfig(**large[1].config))
    projected.load_state_dict(_behind(f"{large[0]}.", load_part("clip", architecture.folder)))
    return StableDiffusionXLPipeline(
        vae=_vae(architecture),  # type: ignore[arg-type]
        text_encoder=_clip_text(architecture, *small),
        text_encoder_2=projected.eval().requires_grad_(False),
        tokenizer=_clip_tokenizer(small[1], folders),
        tokenizer_2=_clip_tokenizer(large[1], folders),
        unet=_unet(architecture),
        scheduler=DDIMScheduler(**shape.SCHEDULER_CONFIG),  # type: ignore[arg-type]
        # It was trained on the empty prompt in its place.
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )


def shapes_dit_pipeline(architecture: FluxArchitecture = SHAPES_DIT, *folders: Path | str) -> Any:
    """Shapes DiT as a FluxPipeline, in fp32 on the CPU. It reads 40 tokens: ``max_sequence_length=40``, and it is
    guided by a second pass: ``true_cfg_scale=3.0``. ``folders`` are ComfyUI's.

    Raises:
        FileNotFoundError, TokenizerError: the weights or a vocabulary are missing.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    transformer: Any = FluxTransformer2DModel(**architecture.transformer)
    transformer.load_state_dict(load_part("transformer", architecture.folder))
    t5 = T5EncoderModel(T5Config(**architecture.t5))
    missing, unknown = t5.load_state_dict(_behind(T5_PREFIX, load_part("t5", architecture.folder)), strict=False)
    assert set(missing) <= {"encoder.embed_tokens.weight"} and not unknown
    t5.tie_weights()
    words = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_folder("t5", *folders) / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )
    pipe: Any = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=architecture.shift, max_shift=architecture.shift
        ),
        vae=_vae(architecture),  # type: ignore[arg-type]
        text_encoder=_clip_text(architecture, "text_l", architecture.clip),
        tokenizer=_clip_tokenizer(architecture.clip, folders),
        text_encoder_2=t5.eval().requires_grad_(False),
        tokenizer_2=words,  # type: ignore[arg-type]
        transformer=transformer.eval().requires_grad_(False),
    )
    # The class has Flux.1's own size in place of its transformer's.
    pipe.default_sample_size = shape.LATENT_SIZE
    return pipe


PIPELINES = {"shapes": shapes_pipeline, "xl": shapes_xl_pipeline, "dit": shapes_dit_pipeline}
"""By the names of :data:`~.architecture.ARCHITECTURES`."""


def _vae(architecture: Miniature) -> PipelineAutoencoder:
    return PipelineAutoencoder(load_autoencoder(architecture)).eval().requires_grad_(False)


def _clip_text(architecture: Architecture | FluxArchitecture, name: str, tower: TextTower) -> CLIPTextModel:
    text = CLIPTextModel(CLIPTextConfig(**tower.config))
    # transformers 5 dropped the "text_model." level from this class; it is the same module underneath.
    inner = getattr(text, "text_model", text)
    inner.load_state_dict(_behind(f"{name}.text_model.", load_part("clip", architecture.folder)))
    return text.eval().requires_grad_(False)


def _clip_tokenizer(tower: TextTower, folders: Sequence[Path | str]) -> Any:
    found = CLIPTokenizer.from_pretrained(find_vocabulary(*folders), pad_token=_PAD_TOKENS[tower.pad])
    found.model_max_length = shape.CONTEXT_LENGTH
    return found


def _unet(architecture: Architecture) -> Any:
    from diffusers import UNet2DConditionModel

    unet: Any = UNet2DConditionModel(**architecture.unet)
    unet.load_state_dict(load_part("unet", architecture.folder))
    return unet.eval().requires_grad_(False)


def _behind(prefix: str, part: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in part.items() if name.startswith(prefix)}
