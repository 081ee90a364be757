"""What is corrupted: the subject, other words in its place, or the whole prompt; in encoders of SD 1.x and 2.x."""

import pytest
import torch
from conditioning import attention_outputs, encode
from runs import PROMPT

pytestmark = pytest.mark.usefixtures("inference")

FIRST = 11  # the start token, eight words and a comma stand before "van"


@pytest.fixture
def corrupt(nodes):
    def run(clip, replaced_by="", extent="subject"):
        return nodes["DiffQuickFix_CorruptPrompt"].execute(clip, PROMPT, "van gogh", 3.0, 0, replaced_by, extent).args

    return run


@pytest.fixture(scope="module")
def sd2(nodes):
    """Stable Diffusion 2's text encoder by ComfyUI's own class, with fewer and narrower layers and random weights."""
    import comfy.sd
    import comfy.supported_models_base
    from comfy.text_encoders.sd2_clip import SD2ClipModel, SD2Tokenizer

    target = comfy.supported_models_base.ClipTarget(SD2Tokenizer, SD2ClipModel)
    small = {"num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256}
    clip = comfy.sd.CLIP(target, model_options={"clip_h_model_config": small, "dtype": torch.float32})
    generator = torch.Generator().manual_seed(4)
    with torch.inference_mode():
        for name, weight in clip.cond_stage_model.named_parameters():
            fresh = torch.randn(weight.shape, generator=generator) * (0.02 if weight.ndim == 1 else 0.1)
            weight.copy_(fresh + float(weight.ndim == 1 and "norm" in name and name.endswith("weight")))
    return clip


def changed(states, clean):
    """Which token positions differ."""
    return (states - clean).abs().amax(-1)[0] > 1e-3


@pytest.mark.parametrize("encoder", ["shapes", "sd2"])
def test_only_what_reads_the_hidden_tokens_changes(encoder, request, corrupt):
    model = request.getfixturevalue(encoder)
    clip = model if encoder == "sd2" else model[1]
    hidden, clean, _ = corrupt(clip)
    torch.testing.assert_close(clean[0][0], encode(clip, PROMPT), atol=1e-5, rtol=1e-4)
    assert not changed(hidden[0][0], clean[0][0])[:FIRST].any()
    assert changed(hidden[0][0], clean[0][0])[FIRST:].all()
    whole, clean, _ = corrupt(clip, extent="whole prompt")
    assert not changed(whole[0][0], clean[0][0])[0]
    assert changed(whole[0][0], clean[0][0])[1:].all()


def test_sd2s_encoder_is_restored_and_edited(nodes, sd2, corrupt, edit):
    """Its states are taken before the last layer; its padding token is 0."""
    hidden, clean, corruption = corrupt(sd2)
    restore = nodes["DiffQuickFix_RestoreTextState"]
    (back,) = restore.execute(corruption, 2, "hidden", "all").args
    torch.testing.assert_close(back[0][0], clean[0][0], atol=1e-5, rtol=1e-4)
    (part,) = restore.execute(corruption, 0, "self_attn", "all").args
    assert changed(part[0][0], clean[0][0]).any() and changed(part[0][0], hidden[0][0]).any()

    before = encode(sd2, PROMPT)
    idle, _, _ = edit(sd2, strength=0.0)
    assert torch.equal(encode(idle, PROMPT), before)
    edited, change, _ = edit(sd2, preset="paper", lam=1e-6, positions="last subject token")
    runs = ((sd2, "van gogh"), (sd2, "painting"), (edited, "van gogh"))
    outputs = attention_outputs(sd2.cond_stage_model.clip_h, runs)
    source, target, answer = outputs[0][0, 2], outputs[1][0, 1], outputs[2][0, 2]
    assert (answer - target).norm() < 0.02 * (source - target).norm()
    assert change.report.efficacy > 0.95
    assert torch.equal(encode(sd2, PROMPT), before)


def test_the_editors_tower_pads_as_sd2_does(sd2, pack):
    from pack_under_test.nodes.host.editing.text_encoder import open_text_encoder

    encoder = open_text_encoder(sd2)
    ids = encoder.tokenizer.tokenize(PROMPT).ids
    assert list(ids) == [token for token, _ in sd2.tokenize(PROMPT)["h"][0]]
    assert ids[-1] == 0
    inputs = []
    module = sd2.cond_stage_model.clip_h.transformer.text_model.encoder.layers[0].self_attn.out_proj
    handle = module.register_forward_pre_hook(lambda module, args: inputs.append(args[0].detach().clone()))
    encode(sd2, PROMPT)
    handle.remove()
    torch.testing.assert_close(encoder.tower.attention_inputs([ids], 0), inputs[0], atol=1e-5, rtol=1e-4)


def test_a_swept_replacement_is_the_other_prompt(nodes, shapes):
    """Other words stand in the traced run; the control's donor is a noisy run, since there is no second draw."""
    model, clip, vae = shapes
    other = PROMPT.replace("van gogh", "bridget riley")
    trace, pictures = (
        nodes["DiffQuickFix_CausalTraceText"]
        .execute(
            model=model,
            clip=clip,
            vae=vae,
            negative=[[encode(clip, ""), {}]],
            latent={"samples": torch.zeros(1, 4, 16, 16)},
            prompts=PROMPT.replace("van gogh", "[van gogh]"),
            kind="self_attn",
            sites="text.0.*",
            window=1,
            noise=3.0,
            draws=3,
            seed=0,
            seeds=1,
            controls=4,
            steps=2,
            cfg=3.0,
            sampler_name="euler",
            scheduler="normal",
            sever="nothing",
            batch_size=8,
            checkpoint="",
            columns="places",
            replaced_by="bridget riley",
        )
        .args
    )
    import nodes as stock

    states = [[encode(clip, other), {}]]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    (painted,) = stock.common_ksampler(model, 0, 2, 3.0, "euler", "normal", states, [[encode(clip, ""), {}]], latent)
    torch.testing.assert_close(pictures[1], vae.decode(painted["samples"])[0], atol=1e-3, rtol=1e-3)
    assert trace.draws == 1 and trace.control.shape[-1] == 4
    assert (trace.control != trace.corrupted[..., None]).any()


def test_other_words_for_the_whole_prompt_are_refused(shapes, corrupt):
    with pytest.raises(ValueError, match="subject's place only"):
        corrupt(shapes[1], replaced_by="a dog", extent="whole prompt")
