"""The restoring MODEL under ComfyUI's own samplers and guiders, and beside a ControlNet."""

import pytest
import torch
from conditioning import encode

pytestmark = pytest.mark.usefixtures("inference")

PROMPT = "a red circle on grass, in the style of van gogh"
STEPS, SEED = 3, 5


@pytest.fixture
def corrupted(nodes, shapes):
    """(corrupted CONDITIONING, clean CONDITIONING, CORRUPTION) of the prompt."""
    return nodes["DiffQuickFix_CorruptPrompt"].execute(shapes[1], PROMPT, "van gogh", 3.0, 0).args


@pytest.fixture
def restored(nodes, shapes, corrupted):
    def run(sites, start=0, end=10000):
        node = nodes["DiffQuickFix_RestoreUNetState"]
        return node.execute(shapes[0], corrupted[2], sites, start, end, "cond").args[0]

    return run


def custom_sample(model, positive, negative=None, *, sampler="dpmpp_2m", batch=1):
    """What SamplerCustomAdvanced does, under CFGGuider or, without a negative prompt, BasicGuider."""
    from comfy_extras import nodes_custom_sampler as stock

    def first(node, *args):
        return getattr(node, "execute", None)(*args).args[0]

    guider = (
        first(stock.BasicGuider, model, positive)
        if negative is None
        else first(stock.CFGGuider, model, positive, negative, 4.0)
    )
    return first(
        stock.SamplerCustomAdvanced,
        first(stock.RandomNoise, SEED),
        guider,
        first(stock.KSamplerSelect, sampler),
        first(stock.BasicScheduler, model, "normal", STEPS, 1.0),
        {"samples": torch.zeros(batch, 16, 16, 16)},
    )["samples"]


@pytest.mark.parametrize(("guided", "batch"), [(True, 1), (True, 2), (False, 1)])
def test_sampler_custom_advanced_paints_the_restored_run(shapes, corrupted, restored, guided, batch):
    model, clip, _ = shapes
    hidden, clean, _ = corrupted
    negative = [[encode(clip, ""), {}]] if guided else None
    wanted = custom_sample(model, clean, negative, batch=batch)
    got = custom_sample(restored("*.cross_context"), hidden, negative, batch=batch)
    assert got.shape == wanted.shape == (batch, 16, 16, 16)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)
    untouched = custom_sample(model, hidden, negative, batch=batch)
    assert not torch.allclose(wanted, untouched, atol=1e-2)
    idle = custom_sample(restored("*.cross_context", 90, 99), hidden, negative, batch=batch)
    torch.testing.assert_close(idle, untouched, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "ddpm", "lcm"])
def test_samplers_that_draw_noise_on_the_way_are_refused(shapes, corrupted, restored, sampler):
    """The clean and the restored row would be given different noise, and every step would differ by it."""
    with pytest.raises(RuntimeError, match="draws new noise"):
        custom_sample(restored("*.cross_context"), corrupted[0], sampler=sampler)
    assert custom_sample(shapes[0], corrupted[0], sampler=sampler).isfinite().all()


@pytest.fixture(scope="module")
def controlnet(shapes):
    """A ControlNet for Shapes by ComfyUI's own class: random weights, deaf to the text."""
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_management
    import comfy.ops

    config = dict(shapes[0].model.model_config.unet_config)
    config = {key: value for key, value in config.items() if key not in ("out_channels", "transformer_depth_output")}
    net = comfy.cldm.cldm.ControlNet(
        hint_channels=3, **{**config, "num_heads": 4, "dtype": torch.float32}, operations=comfy.ops.manual_cast
    )
    generator = torch.Generator().manual_seed(2)
    with torch.inference_mode():
        for name, weight in net.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.05 if weight.ndim > 1 else 0.01))
            if "attn2.to_out" in name:
                weight.zero_()
    return comfy.controlnet.ControlNet(net.eval(), load_device=comfy.model_management.get_torch_device())


def test_a_controlnet_keeps_working(shapes, corrupted, restored, controlnet):
    import nodes as stock

    model, clip, _ = shapes
    hint = torch.rand(1, 128, 128, 3, generator=torch.Generator().manual_seed(1))
    apply = stock.ControlNetApplyAdvanced()
    negative = [[encode(clip, ""), {}]]
    hidden, negative_too = apply.apply_controlnet(corrupted[0], negative, controlnet, hint, 1.0, 0.0, 1.0)
    clean, _ = apply.apply_controlnet(corrupted[1], negative, controlnet, hint, 1.0, 0.0, 1.0)
    wanted = custom_sample(model, clean, negative_too)
    assert not torch.allclose(wanted, custom_sample(model, corrupted[1], negative), atol=1e-2), "it does something"
    got = custom_sample(restored("*.cross_context"), hidden, negative_too)
    torch.testing.assert_close(got, wanted, atol=2e-3, rtol=1e-3)
    assert not torch.allclose(got, custom_sample(model, hidden, negative_too), atol=1e-2)
