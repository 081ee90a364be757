"""Traces of the miniatures as diffusers pipelines, beside those of ComfyUI's nodes: same latents, noise and scores."""

import pytest
import torch
from diff_quickfix.demo_model.diffusers_pipelines import PIPELINES
from diff_quickfix.pipelines.tracing import trace
from runs import conditioning, sweep_inputs

pytestmark = pytest.mark.newest
# Scheduler and sampler of ComfyUI that visit the same noise levels as the pipeline's scheduler.
PROMPTS = {
    "shapes": "a red circle on grass, in the style of [van gogh]",
    "xl": "a red boat on grass, in the style of [gustav klimt], at night",
    "dit": "a red mushroom on grass, in the style of [gustav klimt]",
}
VARIANTS = {"shapes": "Shapes", "xl": "Shapes XL", "dit": "Shapes DiT"}
STEPS, GUIDANCE, SEED = 2, 3.0, 5


def pipeline(name):
    pipe = PIPELINES[name]()
    if name != "dit":
        # From the last timestep in even steps, as ComfyUI's "simple" goes.
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, timestep_spacing="trailing", set_alpha_to_one=True
        )
    return pipe


@pytest.fixture(scope="module", params=PROMPTS)
def pair(request, nodes):
    """A pipeline, and the same miniature as (model, clip, vae)."""
    with torch.inference_mode():
        objects = nodes["DiffQuickFix_LoadShapesDemo"].execute(variant=VARIANTS[request.param]).args
    return request.param, pipeline(request.param), objects


def traced_by_nodes(nodes, name, objects, node, more, **changes):
    inputs = sweep_inputs(
        objects,
        prompts=PROMPTS[name],
        kind="all",
        latent={"samples": torch.zeros(1, 16, 16, 16)},
        negative=conditioning(objects[1], ""),
        steps=STEPS,
        cfg=GUIDANCE,
        seed=SEED,
        sampler_name="euler" if name == "dit" else "ddim",
        scheduler="simple",
        controls=1,
        **changes,
    )
    with torch.inference_mode():
        return nodes[f"DiffQuickFix_{node}"].execute(**inputs, **more).args[0]


def traced(name, pipe, component, **changes):
    guided = {"true_guidance": GUIDANCE} if name == "dit" else {"guidance": GUIDANCE}
    length = {"max_sequence_length": 40} if name == "dit" else {}
    # The nodes take one seed for the noise of both.
    settings = {"steps": STEPS, "noise_seed": SEED, "negative": "", "controls": 1, **guided, **length}
    return trace(pipe, PROMPTS[name], component, seeds=[SEED], **settings, **changes)


def assert_equal_scores(found, wanted):
    assert found.sites == wanted.sites and set(wanted.columns) <= set(found.columns)
    assert float(-wanted.corrupted.mean()) > 1e-2
    places = [found.columns.index(column) for column in wanted.columns]
    for name in ("clean", "corrupted"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.restored[..., places], wanted.restored, atol=1e-3, rtol=1e-3, equal_nan=True)
    if found.columns == wanted.columns:
        torch.testing.assert_close(found.control, wanted.control, atol=1e-3, rtol=1e-3)


SITES = {
    "shapes": ("text.0.self_attn", "unet.mid.a0.self_attn, unet.up.1.r0.*"),
    "xl": ("text.l.2.hidden, text.g.pooled", "unet.mid.a0.cross_attn, unet.in.*"),
    "dit": ("text.t5.0.self_attn, text.l.pooled", "dit.pooled_in.*, dit.double.1.text_attn, dit.single.3.block"),
}


def test_text_traces_are_equal(nodes, pair):
    name, pipe, objects = pair
    sites = SITES[name][0]
    wanted = traced_by_nodes(nodes, name, objects, "CausalTraceText", {"columns": "places"}, sites=sites)
    assert_equal_scores(traced(name, pipe, "text", sites=sites), wanted)


def test_image_traces_are_equal_step_by_step(nodes, pair):
    name, pipe, objects = pair
    sites = SITES[name][1]
    more = {"step_windows": 2, "branch": "cond"}
    wanted = traced_by_nodes(nodes, name, objects, "CausalTraceUNet", more, sites=sites)
    found = traced(name, pipe, "image", sites=sites, step_windows=2)
    assert found.columns == wanted.columns == ("step 1", "step 2")
    assert_equal_scores(found, wanted)
