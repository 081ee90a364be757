"""CLIPs of several kinds of text encoders, a prompt, and a way to corrupt it."""

import functools

import pytest
from small_encoders import objects
from small_sdxl import small_clip

PROMPT = "a photo of a red star in the style of van gogh, at night"
# Of each CLIP: the encoders in it, by the names of their sites, with their modules and the shape of their layers.
CLIPS = {
    "sdxl": {"l": ("clip_l", "clip"), "g": ("clip_g", "clip")},
    "flux": {"l": ("clip_l", "clip"), "t5": ("t5xxl", "t5")},
    "wan": {"umt5": ("umt5xxl", "t5")},
    "z-image": {"qwen": ("qwen3_4b", "decoder")},
    "lumina2": {"gemma": ("gemma2_2b", "decoder")},
    "krea2": {"qwen": ("qwen3vl_4b", "decoder")},
    "flux2": {"mistral": ("mistral3_24b", "decoder")},
    "newbie": {"gemma": ("gemma", "decoder"), "jina": ("jina", "jina")},
}
TAPPED = ("krea2", "flux2")
KINDS = ("self_attn", "mlp", "hidden")


@functools.cache
def clip_named(name):
    return small_clip() if name == "sdxl" else objects(name)[1]


@pytest.fixture(scope="module")
def tracing(pack):
    from pack_under_test.nodes.host.tracing import corrupted
    from pack_under_test.tracing.runs.cases import Restoration
    from pack_under_test.tracing.runs.corruption import CorruptionSettings

    def corrupt(clip, prompt=PROMPT, **settings):
        return corrupted.corrupt_prompt(clip, prompt, "van gogh", CorruptionSettings(**settings))

    return corrupt, Restoration
