"""A custom node for the server under test: ComfyUI's own loader nodes give small models of a family's true topology,
with random weights, for the files that the templates name. No file of such widths is recognised by ComfyUI's loaders.
"""

import dataclasses
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "comfyui"))

import comfy.model_patcher
import comfy.sd
import torch
from door_models import CASES, build
from random_models import tiny_vae
from small_encoders import objects
from small_sdxl import small_clip, small_model

NODE_CLASS_MAPPINGS = {}
FAMILIES = {"flux1-dev": "flux", "t5xxl_fp16": "flux", "z_image_turbo_bf16": "z-image", "qwen_3_4b": "z-image"}
CHECKPOINTS = {"sd_xl_base_1.0"}


def _image_model(family):
    """The family's small model, on latents of sixteen channels as its own."""
    case, cpu = CASES[family], torch.device("cpu")
    case = dataclasses.replace(case, config={**case.config, "in_channels": 16, "out_channels": 16})
    return comfy.model_patcher.ModelPatcher(build(case), cpu, cpu)


def _instead(name, give):
    """Have one of ComfyUI's loading functions give a small model for the files that it stands in for."""
    load = getattr(comfy.sd, name)

    def loading(paths, *args, **kwargs):
        names = [Path(path).stem for path in ([paths] if isinstance(paths, str) else paths)]
        given = give(names[-1])
        return load(paths, *args, **kwargs) if given is None else given

    def by_name(*args, **kwargs):
        # Load CLIP names it, the others do not.
        return loading(kwargs.pop("ckpt_paths"), **kwargs) if "ckpt_paths" in kwargs else loading(*args, **kwargs)

    setattr(comfy.sd, name, by_name)


_instead("load_diffusion_model", lambda name: _image_model(FAMILIES[name]) if name in FAMILIES else None)
_instead("load_clip", lambda name: objects(FAMILIES[name])[1].clone() if name in FAMILIES else None)
_instead(
    "load_checkpoint_guess_config",
    lambda name: (small_model(), small_clip(), comfy.sd.VAE(sd=tiny_vae(4)), None) if name in CHECKPOINTS else None,
)
