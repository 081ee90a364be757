"""The editing node on ComfyUI's own CLIP objects: Shapes, and Stable Diffusion 1.5's at real size with random weights."""

import pytest
import torch
from conftest import encode
from diff_quickfix.quickfix import SubjectError, TowerError, out_proj_name
from random_models import cached, clip_l, sd15

PROMPT = "a red circle on grass, in the style of van gogh"
KEY = "clip_l.transformer.text_model." + out_proj_name(0)


def load_clip_l():
    import comfy.sd

    return comfy.sd.load_clip([str(cached("clip-l", clip_l))], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)


@pytest.fixture(scope="module")
def real_size():
    return load_clip_l()


def weight_of(clip):
    return clip.patcher.get_key_patches(KEY)[KEY][0][0].detach().clone()
