"""Every key of a LATENT is read as the stock sampler reads it: masks, contents, and which noise of a batch."""

import pytest
import torch
from runs import PROMPT, conditioning, sweep_inputs

pytestmark = pytest.mark.usefixtures("inference")

STEPS, CFG, SEED = 2, 4.0, 2


def picture_latent(**more):
    """A latent with something in it."""
    return {"samples": torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(7)), **more}


def half(size=128):
    mask = torch.zeros(1, 1, size, size)
    mask[..., : size // 2] = 1
    return mask


# The sampler "ddim" draws noise of its own for what a mask keeps.
LATENTS = {
    "a mask": ("euler", lambda: picture_latent(noise_mask=half())),
    "a mask, ddim": ("ddim", lambda: picture_latent(noise_mask=half())),
    "a soft mask as a node draws it": ("ddim", lambda: picture_latent(noise_mask=half()[0, 0] * 0.6 + 0.2)),
    "more masks than latents": ("euler", lambda: picture_latent(noise_mask=torch.cat([half(), 1 - half()]))),
    "contents": ("euler", lambda: picture_latent()),
    "the third of a batch": ("euler", lambda: {"samples": torch.zeros(1, 4, 16, 16), "batch_index": [2]}),
    "keys of no matter": (
        "euler",
        lambda: {"samples": torch.zeros(1, 4, 16, 16), "type": "image", "downscale_ratio_spacial": 8},
    ),
}


def stock(model, positive, negative, latent, sampler):
    import nodes

    done = nodes.common_ksampler(model, SEED, STEPS, CFG, sampler, "normal", positive, negative, latent)
    return done[0]["samples"]


@pytest.mark.parametrize("name", LATENTS)
def test_a_trace_starts_where_the_stock_sampler_does(nodes, shapes, corrupt, name):
    """Oracle: the stock sampler's pictures of the clean and of the corrupted prompt, each painted alone."""
    model, clip, vae = shapes
    sampler, latent = LATENTS[name]
    given = {"sampler_name": sampler, "steps": STEPS, "cfg": CFG, "seed": SEED, "sites": "text.0.*", "controls": 0}
    inputs = sweep_inputs(shapes, latent=latent(), **given)
    _, pictures = nodes["DiffQuickFix_CausalTraceText"].execute(**inputs, columns="tokens", pictures=0).args
    hidden, clean, _ = corrupt(clip, seed=SEED)
    for picture, positive in zip(pictures, (clean, hidden), strict=True):
        alone = vae.decode(stock(model, positive, conditioning(clip, ""), latent(), sampler))[0]
        torch.testing.assert_close(picture, alone, atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize("sampler", ["euler", "ddim"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_restoring_model_keeps_what_a_mask_protects(shapes, corrupt, restore_unet, sampler, batch):
    model, clip, _ = shapes
    hidden, clean, corruption = corrupt(clip)
    negative = conditioning(clip, "")
    latent = picture_latent(noise_mask=half())
    latent["samples"] = latent["samples"].repeat(batch, 1, 1, 1)
    got = stock(restore_unet(model, corruption, "*.cross_context"), hidden, negative, latent, sampler)
    wanted = stock(model, clean, negative, latent, sampler)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(wanted, stock(model, hidden, negative, latent, sampler), atol=1e-2)


def test_the_samplers_own_object_is_not_changed(shapes, corrupt, restore_unet):
    from comfy_extras import nodes_custom_sampler as custom

    model, clip, _ = shapes
    hidden, _, corruption = corrupt(clip)
    sampler = custom.KSamplerSelect.execute("ddim").args[0]
    before = dict(vars(sampler))
    guider = custom.BasicGuider.execute(restore_unet(model, corruption, "unet.middle.*.resnet"), hidden).args[0]
    sigmas = custom.BasicScheduler.execute(model, "normal", 1, 1.0).args[0]
    noise = custom.RandomNoise.execute(1).args[0]
    custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, picture_latent(noise_mask=half()))
    assert vars(sampler) == before


@pytest.mark.parametrize(
    ("latent", "message"),
    [
        ({"samples": torch.zeros(2, 4, 16, 16)}, "batch of 2"),
        ({"samples": torch.zeros(1, 16, 3, 16, 16)}, r"of shape \(1, 16, 3, 16, 16\)"),
        ({"samples": torch.zeros(1, 64, 100)}, r"of shape \(1, 64, 100\)"),
    ],
)
def test_latents_of_something_else_are_refused(nodes, shapes, monkeypatch, latent, message):
    import comfy.samplers

    monkeypatch.setattr(comfy.samplers.CFGGuider, "sample", lambda *args, **kwargs: pytest.fail("painted"))
    with pytest.raises(ValueError, match=message):
        nodes["DiffQuickFix_CausalTraceText"].execute(**sweep_inputs(shapes, latent=latent), columns="tokens")
    assert PROMPT
