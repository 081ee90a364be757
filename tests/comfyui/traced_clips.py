"""CLIPs of several kinds of text encoders, a prompt, and a way to corrupt it."""

import functools

import pytest
import torch
from runs import sweep_inputs
from small_encoders import objects
from small_sdxl import small_clip, small_model

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


class Vae:
    """In place of a VAE: "pictures" of any result."""

    def decode(self, results):
        return torch.zeros(len(results), 8, 8, 3)


@pytest.fixture
def trace_states(nodes, monkeypatch):
    """Run the tracing node on a CLIP with a painter that gives the text states at one token, or the pooled vector."""
    from pack_under_test.nodes.host.tracing import causal_trace

    def run(clip, read, **changes):
        def painter(*args, **kwargs):
            return lambda conditioning, seed, patches: read(conditioning[0])

        inputs = sweep_inputs((small_model(), clip, Vae()), prompts=PROMPT.replace("van gogh", "[van gogh]"), **changes)
        with monkeypatch.context() as patch:
            patch.setattr(causal_trace, "make_painter", painter)
            patch.setattr(causal_trace, "vae_parts", lambda vae: {})
            return nodes["DiffQuickFix_CausalTraceText"].execute(**{"columns": "tokens", **inputs}).args[0]

    return run
