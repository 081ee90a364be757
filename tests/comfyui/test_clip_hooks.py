"""Hooks on a CLIP (Set CLIP Hooks): a traced prompt has the conditioning that the stock encoder gives."""

import pytest
import torch
from runs import PROMPT, conditioning, sweep_inputs

pytestmark = pytest.mark.usefixtures("inference")

KINDS = {
    # (schedule_clip, apply_to_conds, strengths from the start and from the middle on)
    "for all steps": (False, True, None),
    "for all steps, text alone": (False, False, None),
    "keyframes": (True, True, (1.0, 0.2)),
    "keyframes, text alone": (True, False, (0.3, 1.0)),
}


@pytest.fixture
def hooked(shapes):
    """A CLIP with LoRA hooks on its encoder and on the UNet."""
    import comfy.hooks
    from comfy_extras.nodes_hooks import SetClipHooks

    generator = torch.Generator().manual_seed(3)

    def lora(name, width):
        return {
            f"{name}.lora_up.weight": torch.randn(width, 2, generator=generator) * 0.3,
            f"{name}.lora_down.weight": torch.randn(2, width, generator=generator) * 0.3,
        }

    text = lora("lora_te_text_model_encoder_layers_1_self_attn_out_proj", 128)
    picture = lora("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_out_0", 64)

    def make(kind):
        schedule_clip, apply_to_conds, strengths = KINDS[kind]
        hooks = comfy.hooks.create_hook_lora({**text, **picture}, 1.0, 1.0)
        if strengths:
            frames = comfy.hooks.HookKeyframeGroup()
            for strength, start in zip(strengths, (0.0, 0.5), strict=True):
                frames.add(comfy.hooks.HookKeyframe(strength, start_percent=start))
            hooks.set_keyframes_on_hooks(frames)
        return SetClipHooks().apply_hooks(shapes[1], schedule_clip, apply_to_conds, hooks)[0]

    return make


def stock_encoded(clip, text):
    import nodes

    return nodes.CLIPTextEncode().encode(clip, text)[0]


def options_of(entry):
    return {key: value for key, value in entry[1].items() if key != "pooled_output"}


@pytest.mark.parametrize("kind", KINDS)
def test_corrupt_prompt_gives_the_entries_of_the_stock_encoder(shapes, hooked, corrupt, restore_text, kind):
    clip = hooked(kind)
    wanted = stock_encoded(clip, PROMPT)
    hidden, clean, corruption = corrupt(clip)
    assert len(wanted) == (2 if "keyframes" in kind else 1)
    assert not torch.allclose(wanted[0][0], stock_encoded(shapes[1], PROMPT)[0][0], atol=1e-2)
    everywhere = restore_text(corruption, 5, "hidden", "all")
    for found in (clean, everywhere):
        for entry, stock in zip(found, wanted, strict=True):
            torch.testing.assert_close(entry[0], stock[0], atol=5e-5, rtol=1e-4)
            torch.testing.assert_close(entry[1]["pooled_output"], stock[1]["pooled_output"])
            assert options_of(entry) == options_of(stock)
    for entry, other in zip(hidden, wanted, strict=True):
        assert not torch.allclose(entry[0], other[0], atol=1e-2)
        assert options_of(entry) == options_of(other)


@pytest.mark.parametrize("node", ["CausalTraceText", "CausalTraceUNet"])
@pytest.mark.parametrize("kind", ["for all steps", "keyframes"])
def test_a_trace_paints_with_the_hooks(nodes, shapes, hooked, corrupt, node, kind):
    """Oracle: the stock encoder's conditioning, and Corrupt Prompt's, in the stock sampler."""
    import nodes as stock

    model, _, vae = shapes
    clip = hooked(kind)
    negative = conditioning(shapes[1], "")
    more = {"columns": "tokens"} if node == "CausalTraceText" else {"step_windows": 1, "branch": "cond"}
    site = "text.0.*" if node == "CausalTraceText" else "unet.middle.*"
    inputs = sweep_inputs((model, clip, vae), negative=negative, sampler_name="euler", steps=3, sites=site, controls=0)
    _, pictures = nodes[f"DiffQuickFix_{node}"].execute(**inputs, **more, pictures=0).args
    hidden, _, _ = corrupt(clip)
    for picture, positive in zip(pictures, (stock_encoded(clip, PROMPT), hidden), strict=False):
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        done = stock.common_ksampler(model, 0, 3, 3.0, "euler", "normal", positive, negative, latent)[0]["samples"]
        torch.testing.assert_close(picture, vae.decode(done)[0], atol=2e-3, rtol=1e-2)


def test_a_restoring_model_restores_the_prompt_of_every_keyframe(shapes, hooked, corrupt, restore_unet):
    import nodes as stock

    clip = hooked("keyframes")
    hidden, clean, corruption = corrupt(clip)
    negative = conditioning(shapes[1], "")

    def paint(model, positive):
        latent = {"samples": torch.zeros(1, 4, 16, 16)}
        return stock.common_ksampler(model, 0, 3, 3.0, "euler", "normal", positive, negative, latent)[0]["samples"]

    got = paint(restore_unet(shapes[0], corruption, "*.cross_context"), hidden)
    torch.testing.assert_close(got, paint(shapes[0], clean), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(got, paint(shapes[0], hidden), atol=1e-2)
