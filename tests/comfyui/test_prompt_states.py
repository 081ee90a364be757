"""Text states that the pack's own towers compute, beside ComfyUI's own of the same weights."""

import torch
from diff_quickfix.quickfix import PromptStates, TextTower
from diff_quickfix.quickfix.encoder.prompt_states import READINGS, Stream
from small_sdxl import small_clip

PROMPTS = ("", "a painting by van gogh", "two dogs on a sofa")


def test_sdxls_states_and_pooled_vector_are_those_of_comfyui(tokenizer):
    clip = small_clip()
    model = clip.cond_stage_model
    modules = (model.clip_l.transformer, model.clip_g.transformer)
    streams = tuple(
        Stream(TextTower.from_module(module), pad, reading)
        for module, pad, reading in zip(modules, (49407, 0), READINGS["sdxl"], strict=True)
    )
    states = PromptStates(streams, tokenizer, "sdxl", modules[1].text_projection.weight.detach)
    for prompt in PROMPTS:
        wanted, vector = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
        found = states.states([tokenizer.tokenize(prompt).ids])
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(states.pooled([prompt]), vector, rtol=1e-3, atol=1e-3)
    tower = states.tower()
    prompts = tokenizer.tokenize_all([prompt for prompt in PROMPTS if prompt])
    short = tower.attention_inputs([prompt.ids for prompt in prompts], 0, range(1, 6))
    whole = states.states([prompt.ids for prompt in prompts])[:, 1:6] * tower.scale
    torch.testing.assert_close(short, whole, rtol=1e-3, atol=1e-4)
