"""Corrupt Prompt and the restoring nodes on ComfyUI's own CLIP and MODEL objects."""

import pytest
import torch
from conditioning import encode
from diff_quickfix.demo_model.pipeline import load_pipeline
from diff_quickfix.families.unet import unet_sites
from runs import PROMPT, STEPS, conditioning, hooks_of, sample

pytestmark = pytest.mark.usefixtures("inference")


# --- text encoder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prompt",
    [
        PROMPT,
        "a red circle on grass, in the style of (van gogh:1.4)",
        "(a red circle:0.5) on grass, Van Gogh!",
        "red circle, " * 40 + "in the style of van gogh",
        "van gogh, " + "red circle, " * 40,
    ],
)
def test_clean_is_what_the_stock_node_encodes_and_only_the_subject_and_later_change(shapes, corrupt, prompt):
    _, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip, prompt)
    stock = encode(clip, prompt)
    torch.testing.assert_close(clean[0][0], stock, atol=2e-5, rtol=1e-4)
    changed = (corrupted[0][0] - clean[0][0]).abs().amax(-1)[0]
    (share,) = corruption.case.shares
    first = share.chunk * 77 + share.corruption.positions[0]
    assert (changed[:first] < 1e-5).all()
    assert (changed[first : first + 2] > 1e-2).all()
    assert hooks_of(clip.cond_stage_model) == 0


def test_restoring_the_last_hidden_state_everywhere_is_the_clean_run(shapes, corrupt, restore_text):
    _, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    restored = restore_text(corruption, 5, "hidden", "all")
    torch.testing.assert_close(restored[0][0], clean[0][0], atol=1e-5, rtol=0)
    part = restore_text(corruption, 5, "hidden", "last subject token")[0][0]
    where = corruption.subject[-1]
    torch.testing.assert_close(part[0, where], clean[0][0][0, where], atol=1e-5, rtol=0)
    torch.testing.assert_close(part[0, where + 1 :], corrupted[0][0][0, where + 1 :], atol=1e-5, rtol=0)


def test_clip_skip_is_respected(shapes, corrupt):
    _, clip, _ = shapes
    skipping = clip.clone()
    skipping.clip_layer(-2)
    torch.testing.assert_close(corrupt(skipping)[1][0][0], encode(skipping, PROMPT), atol=2e-5, rtol=1e-4)


def test_other_words_in_the_subjects_place(shapes, corrupt):
    _, clip, _ = shapes
    corrupted, _, _ = corrupt(clip, replaced_by="bridget riley")
    swapped = encode(clip, PROMPT.replace("van gogh", "bridget riley"))
    torch.testing.assert_close(corrupted[0][0], swapped, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "monet"}, "not among the words"),
        ({"subject": ""}, "empty"),
        ({"subject": "go"}, "not among the words"),
        ({"prompt": "van gogh, " + "red circle, " * 40 + "van gogh"}, "parts of 77"),
        ({"replaced_by": "the president of the united states"}, "at most"),
    ],
)
def test_bad_subjects_are_refused(shapes, corrupt, changes, message):
    with pytest.raises(ValueError, match=message):
        corrupt(shapes[1], **changes)


# --- UNet ------------------------------------------------------------------------------------------------------------


def test_the_restored_run_equals_a_loop_written_by_hand(shapes, corrupt, restore_unet):
    """Oracle: diffusers' UNet, an Euler loop and one hook, against the stock sampler on the restoring MODEL."""
    model, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    painted = sample(restore_unet(model, corruption, "unet.input.4.1.self_attn", 1, 3), corrupted, negative)

    import comfy.sample
    import comfy.samplers

    unet = load_pipeline().unet
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", STEPS)
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 3)
    # ComfyUI starts from this scale when the first sigma is the largest one that the model knows.
    x = noise.repeat(2, 1, 1, 1) * (1 + sigmas[0] ** 2) ** 0.5
    text = torch.cat([clean[0][0], corrupted[0][0], negative[0][0], negative[0][0]])
    restored = unet.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    for step in range(STEPS):
        now = sigmas[step]

        def put_back(module, args, output, step=step):
            if 1 <= step < 3:
                output = output.clone()
                output[1] = output[0]
            return output

        handle = restored.register_forward_hook(put_back)
        scaled = (x / (1 + now**2) ** 0.5).repeat(2, 1, 1, 1)
        guided, plain = unet(scaled, sampling.timestep(now), text).sample.chunk(2)
        handle.remove()
        x = x + (plain + 4.0 * (guided - plain)) * (sigmas[step + 1] - now)
    torch.testing.assert_close(painted, x[1:], atol=2e-3, rtol=1e-3)
    assert not torch.allclose(painted, sample(model, corrupted, negative), atol=1e-2)


@pytest.mark.parametrize(("batch", "cfg"), [(1, 4.0), (2, 4.0), (3, 1.0)])
def test_every_cross_attention_given_the_clean_text_paints_the_clean_picture(shapes, corrupt, restore_unet, batch, cfg):
    model, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    # A negative prompt of two parts: ComfyUI repeats the shorter conditioning.
    negative = conditioning(clip, "blue square, " * 40)
    restored = sample(restore_unet(model, corruption, "*.cross_context"), corrupted, negative, batch=batch, cfg=cfg)
    wanted = sample(model, clean, negative, batch=batch, cfg=cfg)
    assert restored.shape == wanted.shape
    torch.testing.assert_close(restored, wanted, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(wanted, sample(model, corrupted, negative, batch=batch, cfg=cfg), atol=1e-2)


def test_restoring_at_no_step_is_the_corrupted_run(shapes, corrupt, restore_unet):
    model, clip, _ = shapes
    corrupted, _, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    idle = sample(restore_unet(model, corruption, "unet.*.resnet", 90, 99), corrupted, negative)
    torch.testing.assert_close(idle, sample(model, corrupted, negative), atol=2e-3, rtol=1e-3)


def test_restoring_works_on_top_of_a_patched_model(shapes, corrupt, restore_unet):
    """A weight patch, as a LoRA node makes it, is in the clean and in the restored run."""
    model, clip, _ = shapes
    key = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_out.0.weight"
    patched = model.clone()
    assert patched.add_patches({key: ("diff", (torch.full((64, 64), 0.02),))}, 1.0) == [key]
    corrupted, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    restored = sample(restore_unet(patched, corruption, "*.cross_context"), corrupted, negative)
    torch.testing.assert_close(restored, sample(patched, clean, negative), atol=2e-3, rtol=1e-3)


def test_nothing_is_left_behind(shapes, corrupt, restore_unet, monkeypatch):
    model, clip, _ = shapes
    corrupted, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    before = sample(model, clean, negative)
    restoring = restore_unet(model, corruption, "*")
    sample(restoring, corrupted, negative)
    assert torch.equal(sample(model, clean, negative), before)
    assert hooks_of(model.model) == 0
    # An error in mid-run: the positive conditioning is not the corrupted one.
    with pytest.raises(RuntimeError, match="Corrupt Prompt"):
        sample(restoring, conditioning(clip, "red circle, " * 40), negative)
    assert hooks_of(model.model) == 0
    assert torch.equal(sample(model, clean, negative), before)
    assert not model.wrappers or not any("DiffQuickFix" in str(kind) for kind in model.wrappers.values())


def test_an_unknown_site_is_refused(shapes, corrupt, restore_unet):
    model, clip, _ = shapes
    with pytest.raises(ValueError, match=r"this model has unet\.in\.block, unet\.down\.0\.r0"):
        restore_unet(model, corrupt(clip)[2], "unet.input.99.*")


def test_sites_have_sd15s_sixteen_cross_attentions_and_run_in_order(shapes):
    model, _, _ = shapes
    sites = unet_sites(model.model.diffusion_model)
    cross = [site.name for site in sites if site.kind == "cross_attn"]
    assert len(cross) == 16
    assert cross[0] == "unet.down.0.a0.cross_attn" and cross[6] == "unet.mid.a0.cross_attn"
    assert sum(site.kind == "block" for site in sites) == 12 + 1 + 12
