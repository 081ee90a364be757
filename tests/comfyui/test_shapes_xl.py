"""Shapes XL through ComfyUI's own classes for SDXL, beside transformers and diffusers on the same weights."""

import dataclasses
from itertools import pairwise

import comfy.model_base
import comfy.sample
import comfy.samplers
import comfy.sdxl_clip
import pytest
import torch
from diff_quickfix.demo_model.architecture import SHAPES_XL
from diff_quickfix.demo_model.autoencoder import Autoencoder
from diff_quickfix.demo_model.clip import Clip
from diff_quickfix.demo_model.pipeline import load_xl_pipeline
from diff_quickfix.demo_model.reader import Reader
from diff_quickfix.demo_model.training import export
from diff_quickfix.demo_model.training.denoising import started_unet
from diff_quickfix.demo_model.training.training_set import RECIPES
from runs import gallery_pictures
from safetensors.torch import save_file

PROMPTS = ("a red boat on grass, in the style of frank stella", "")
STYLES = ("gustav klimt", "frank stella", "edvard munch")
DECODED = {"atol": 1e-4, "rtol": 1e-3}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Shapes XL with weights that nobody trained, written as a training writes them."""
    recipe = dataclasses.replace(RECIPES["xl"], warm="")
    out, torch_state = tmp_path_factory.mktemp("xl"), torch.get_rng_state()
    torch.manual_seed(0)
    for stage, prefix, module in (
        ("clip", "clip.", Clip(SHAPES_XL)),
        ("autoencoder", "autoencoder.", Autoencoder()),
        ("unet", "average.", started_unet(recipe)),
    ):
        state = {prefix + name: value.contiguous() for name, value in module.state_dict().items()}
        save_file(state, out / f"{stage}.safetensors")
    torch.set_rng_state(torch_state)
    architecture = dataclasses.replace(SHAPES_XL, folder=out / "own", shared=out / "shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CAPTIONS", 1_000)
        export.export(recipe, out, architecture)
    return architecture


@pytest.fixture(scope="module")
def pipeline(untrained):
    return load_xl_pipeline(untrained)


@pytest.fixture(scope="module")
def loaded(pack, untrained):
    from pack_under_test.nodes.host import shapes

    with torch.inference_mode():
        return (
            shapes.load_model(architecture=untrained),
            shapes.load_clip(architecture=untrained),
            shapes.load_vae(untrained),
        )


@torch.inference_mode()
def encoded(clip):
    """States and pooled vector of each prompt."""
    return [clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for prompt in PROMPTS]


def test_it_is_an_sdxl(loaded):
    model, clip, _ = loaded
    assert isinstance(model.model, comfy.model_base.SDXL)
    assert isinstance(clip.cond_stage_model, comfy.sdxl_clip.SDXLClipModel)
    assert isinstance(clip.tokenizer, comfy.sdxl_clip.SDXLTokenizer)
    depths = model.model.model_config.unet_config["transformer_depth"]
    # No attention at the finest level, and the deepest transformers at the coarsest, as in [0, 0, 2, 2, 10, 10].
    assert depths[:2] == [0, 0] and 0 < depths[2] == depths[3] < depths[4] == depths[5]


def test_both_towers_say_what_transformers_says(loaded, pipeline):
    for (states, pooled), prompt in zip(encoded(loaded[1]), PROMPTS, strict=True):
        wanted = pipeline.condition([prompt])
        torch.testing.assert_close(states, wanted.states, **DECODED)
        torch.testing.assert_close(pooled, wanted.added["text_embeds"], **DECODED)


def test_the_unet_says_what_diffusers_says(loaded, pipeline):
    """The pooled vector, the sizes and the states all reach it: another of any gives another answer."""
    given, (noise,) = pipeline.condition(PROMPTS[:1]), pipeline.initial_noise([3])
    model = loaded[0].model

    def drawn(states=given.states, pooled=given.added["text_embeds"], **sizes):
        adm = model.encode_adm(pooled_output=pooled, **({"width": 128, "height": 128} | sizes))
        return model.diffusion_model(noise[None], torch.tensor([500.0]), context=states, y=adm)

    with torch.inference_mode():
        wanted = pipeline.unet(noise[None], 500, given.states, added_cond_kwargs=given.added).sample
        torch.testing.assert_close(drawn(), wanted, **DECODED)
        for other in (drawn(states=given.states * 2), drawn(pooled=given.added["text_embeds"] * 9), drawn(width=640)):
            assert (other - wanted).abs().max() > 100 * DECODED["atol"]


def test_stock_samplers_and_the_vae_paint_with_it(loaded, pipeline):
    """Oracle: an Euler loop over diffusers' UNet, from the same noise, and the autoencoder itself."""
    model, clip, vae = loaded
    (positive, negative), steps = ([[states, {"pooled_output": pooled}]] for states, pooled in encoded(clip)), 3
    noise = pipeline.initial_noise([3])
    with torch.inference_mode():
        found = comfy.sample.sample(
            model, noise, steps, 5.0, "euler", "normal", positive, negative, torch.zeros_like(noise), seed=3
        )
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", steps)
        given = pipeline.condition(PROMPTS[:1]).beside(pipeline.condition(PROMPTS[1:]))
        x = noise * (1 + sigmas[0] ** 2) ** 0.5
        for now, later in pairwise(sigmas):
            both = (x / (1 + now**2) ** 0.5).repeat(2, 1, 1, 1)
            drawn = pipeline.unet(both, sampling.timestep(now), given.states, added_cond_kwargs=given.added).sample
            unguided, guided = drawn.chunk(2)
            x = x + (later - now) * (unguided + 5.0 * (guided - unguided))
        torch.testing.assert_close(found, x, atol=1e-2, rtol=1e-3)
        picture = vae.decode(found).movedim(-1, 1)
        wanted = pipeline.autoencoder.decode(found).add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(picture, wanted, **DECODED)


def test_missing_weights_are_told_with_where_they_are(run, nodes, untrained, monkeypatch):
    from pack_under_test.nodes.host import shapes

    monkeypatch.setitem(
        shapes.VARIANTS, "Shapes XL", dataclasses.replace(untrained, folder=shapes.shape.WEIGHTS / "nowhere")
    )
    with pytest.raises(
        FileNotFoundError,
        match=r"unet\.safetensors in .*upload: copy the folder demo_model/weights/nowhere from .*make train",
    ):
        run("LoadShapesDemo", variant="Shapes XL")


@pytest.mark.newest
def test_what_is_shipped_paints_and_loses_a_style_that_is_removed(run):
    """In ComfyUI's own sampler, read by a reader that has nothing in common with the model; no neighbour is named."""

    model, clip, vae = run("LoadShapesDemo", variant="Shapes XL").args
    edited = run("RemoveConcept", model, clip, "gustav klimt", "painting", "style", 1.0, breadth="none").args[0]
    reader, texts = Reader(SHAPES_XL), [f"a red star on grass, in the style of {name}" for name in STYLES]
    for painter, expected in ((model, STYLES), (edited, ("plain", *STYLES[1:]))):
        pictures = gallery_pictures(painter, clip, vae, texts, cfg=5.0, sampler="ddim", scheduler="ddim_uniform")
        read = reader.read(pictures)
        assert read["style"] == [*expected]
        assert read["object"] == ["star"] * len(STYLES) and read["color"] == ["red"] * len(STYLES)
