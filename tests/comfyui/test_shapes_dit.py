"""Shapes DiT through ComfyUI's own classes for Flux.1, beside transformers and diffusers on the same weights."""

import dataclasses

import comfy.model_base
import comfy.samplers
import comfy.text_encoders.flux
import pytest
import torch
from diff_quickfix.demo_model.architecture import SHAPES_DIT, SHAPES_XL
from diff_quickfix.demo_model.autoencoder import Autoencoder
from diff_quickfix.demo_model.clip import Clip
from diff_quickfix.demo_model.flux import load_dit_pipeline, new_transformer, noise_levels, velocity
from diff_quickfix.demo_model.reader import Reader
from diff_quickfix.demo_model.t5 import DiTTexts
from diff_quickfix.demo_model.training import export
from diff_quickfix.demo_model.training.bidirectional import TAKEN
from diff_quickfix.demo_model.training.training_set import FLUX_RECIPES
from runs import gallery_pictures, sweep_inputs
from safetensors.torch import save_file
from test_remove_concept import weights_of

import nodes as stock

# The first is longer than the other two, and all have words of several T5 tokens.
PROMPTS = ("three purple butterflies on sand, in the style of utagawa hiroshige", "a red boat on grass", "")
REMOVED, KEPT = "gustav klimt", ("yayoi kusama", "piet mondrian")
CLOSE = {"atol": 1e-4, "rtol": 1e-3}


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Shapes DiT with weights that nobody trained, written as a training writes them."""
    out, torch_state = tmp_path_factory.mktemp("dit"), torch.get_rng_state()
    torch.manual_seed(0)
    transformer = new_transformer()
    with torch.no_grad():
        # Fresh biases are zero or small, and would hide one that is left out.
        for name, parameter in transformer.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    modules = {
        TAKEN: ("", Clip(SHAPES_XL)),
        "t5.safetensors": ("t5.", DiTTexts().t5),
        "transformer.safetensors": ("average.", transformer),
    }
    for file, (prefix, module) in modules.items():
        state = {prefix + name: value.contiguous() for name, value in module.state_dict().items()}
        save_file(state, out / file)
    torch.set_rng_state(torch_state)
    architecture = dataclasses.replace(SHAPES_DIT, folder=out / "own", shared=out / "shared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CAPTIONS", 1_000)
        export.export_flux(FLUX_RECIPES["dit"], out, architecture)
    export.save_part("autoencoder", Autoencoder().state_dict(), architecture.shared)
    return architecture


@pytest.fixture(scope="module")
def pipeline(untrained):
    return load_dit_pipeline(untrained)


@pytest.fixture(scope="module")
def loaded(pack, untrained):
    from pack_under_test.nodes.host import shapes

    own = dataclasses.replace(shapes.VARIANTS["Shapes DiT"], folder=untrained.folder, shared=untrained.shared)
    with torch.inference_mode():
        return shapes.load_model(architecture=own), shapes.load_clip(architecture=own), shapes.load_vae(own)


def test_it_is_a_flux(loaded):
    model, clip, _ = loaded
    assert isinstance(model.model, comfy.model_base.Flux)
    assert isinstance(clip.cond_stage_model, comfy.text_encoders.flux.FluxClipModel)
    assert isinstance(clip.tokenizer, comfy.text_encoders.flux.FluxTokenizer)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_both_encoders_say_what_transformers_says(loaded, pipeline, prompt):
    with torch.inference_mode():
        states, pooled = loaded[1].encode_from_tokens(loaded[1].tokenize(prompt), return_pooled=True)
    wanted = pipeline.condition([prompt])
    torch.testing.assert_close(states, wanted.states, **CLOSE)
    torch.testing.assert_close(pooled, wanted.added["pooled_projections"], **CLOSE)


@pytest.mark.newest
def test_t5_reads_in_both_directions(pipeline):
    first, other = (pipeline.condition([text]).states[0] for text in ("a red boat on sand", "a red boat on grass"))
    assert (first[0] - other[0]).abs().max() > 1e-3, "what stands behind a token reaches it"


def test_the_transformer_says_what_diffusers_says(loaded, pipeline):
    """States, pooled vector and noise level all reach it: another of any gives another answer."""
    given, noise = pipeline.condition(PROMPTS[:2]), pipeline.initial_noise([3, 4])
    levels = torch.tensor([0.9, 0.2])
    states, pooled = given.states, given.added["pooled_projections"]

    def drawn(levels=levels, states=states, pooled=pooled):
        return loaded[0].model.diffusion_model(noise, levels, context=states, y=pooled)

    with torch.inference_mode():
        wanted = velocity(pipeline.transformer, noise, levels, states, pooled)
        torch.testing.assert_close(drawn(), wanted, **CLOSE)
        for other in (drawn(states=states.flip(0)), drawn(pooled=pooled.flip(0)), drawn(levels=levels.flip(0))):
            assert (other - wanted).abs().amax((1, 2, 3)).min() > 10 * CLOSE["atol"]


def test_the_stock_sampler_and_vae_paint_what_the_pipeline_paints(loaded, pipeline):
    model, clip, vae = loaded
    (positive,), (negative,) = (stock.CLIPTextEncode().encode(clip, prompt) for prompt in PROMPTS[1:])
    (empty,) = stock.EmptyLatentImage().generate(128, 128)
    (latent,) = stock.KSampler().sample(model, 3, 4, 3.0, "euler", "simple", positive, negative, empty)
    noise = comfy.sample.prepare_noise(torch.zeros(1, 16, 16, 16), 3)
    given = pipeline.condition(PROMPTS[1:2]).beside(pipeline.condition(PROMPTS[2:]))
    with torch.inference_mode():
        wanted = pipeline.denoised(noise, given, 4, 3.0)
    torch.testing.assert_close(latent["samples"], wanted, atol=1e-3, rtol=1e-3)
    (picture,) = stock.VAEDecode().decode(vae, latent)
    wanted = pipeline.autoencoder.decode(latent["samples"]).add(1).div(2).clamp(0, 1)
    torch.testing.assert_close(picture.movedim(-1, 1), wanted, **CLOSE)


def test_noise_levels_are_those_of_the_scheduler(loaded):
    sampling = loaded[0].get_model_object("model_sampling")
    for steps in (1, 7, 20):
        wanted = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        # ComfyUI takes the nearest of ten thousand.
        torch.testing.assert_close(noise_levels(steps, SHAPES_DIT.shift), wanted, atol=3e-4, rtol=0)


def test_remove_concept_takes_it_for_a_flux_and_edits_its_doors(run, loaded, pipeline, inference):
    """By the states that the pipeline outside ComfyUI reads, pads among them."""
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.nodes.host.editing.text_states import open_text_states

    model, clip, _ = loaded
    edited, _, edit, report = run(
        "RemoveConcept", model, clip, "frank stella", "painting", "style", 1.0, breadth="none"
    ).args[:4]
    assert report.startswith("edited: the image model") and "Flux.1" in report
    before, after = weights_of(model), weights_of(edited)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {update.door.weight for update in edit.doors} == {"txt_in.weight", "vector_in.in_layer.weight"}

    states = open_text_states(clip, open_image_model(model).family, model)
    keys = states.reader.states([prompt.ids for prompt in states.tokenizer.tokenize_all(PROMPTS)])
    # What the editor fills rows up with, beyond what the transformer is given, is zero.
    given, beyond = keys.split([SHAPES_DIT.length, keys.shape[1] - SHAPES_DIT.length], dim=1)
    torch.testing.assert_close(given, pipeline.condition(PROMPTS).states, **CLOSE)
    assert not beyond.any()
    moved = keys + keys @ edit.down.T @ edit.up.T
    name = "txt_in.weight"
    plain, wanted, found = keys @ before[name].T, moved @ before[name].T, keys @ after[name].T
    assert (found - wanted).norm() < 1e-5 * wanted.norm() < 1e-2 * (found - plain).norm()


@pytest.mark.newest
def test_missing_weights_are_told_with_where_they_are(run, nodes, monkeypatch):
    from pack_under_test.nodes.host import shapes

    elsewhere = dataclasses.replace(shapes.VARIANTS["Shapes DiT"], folder=shapes.shape.WEIGHTS / "nowhere")
    monkeypatch.setitem(shapes.VARIANTS, "Shapes DiT", elsewhere)
    told = r"transformer\.safetensors in .*upload: copy the folder demo_model/weights/nowhere from .*make train"
    with pytest.raises(FileNotFoundError, match=told):
        run("LoadShapesDemo", variant="Shapes DiT")


def traced(nodes, loaded, **changes):
    """A trace of the image model over a prompt of few steps."""
    settings = {"replaced_by": "a painting", "kind": "all", "sampler_name": "euler", "scheduler": "simple"}
    inputs = sweep_inputs(loaded, **settings | {"latent": {"samples": torch.zeros(1, 16, 16, 16)}} | changes)
    return nodes["DiffQuickFix_CausalTraceUNet"].execute(**inputs, step_windows=1, branch="cond").args[0]


def test_the_text_put_back_where_it_enters_is_the_clean_run(nodes, loaded, inference):
    """T5's states and CLIP's vector are both corrupted; what the last text stream holds is read by nothing."""
    both = traced(nodes, loaded, sites="dit.*_in.*", window=2, controls=0)
    assert both.sites == ("dit.text_in..pooled_in.entrance",)
    away = float(-both.corrupted)
    assert away > 1e-3 and float(-both.restored) < 1e-3 * away
    trace = traced(nodes, loaded, sites="dit.*_in.*, dit.single.3.*block", controls=0)
    assert trace.sites == (
        *("dit.text_in.entrance", "dit.pooled_in.entrance"),
        *("dit.single.3.block", "dit.single.3.text_block"),
    )
    text, pooled, picture, nothing = (float(-value) for value in trace.restored.flatten())
    assert nothing == pytest.approx(away, rel=1e-4)
    assert all(1e-3 * away < one for one in (text, pooled, picture))


def test_a_site_is_restored_the_same_by_the_node_for_one_run(nodes, loaded, inference):
    """The sweep, and a stock sampler with the MODEL that restores."""
    model, clip, _ = loaded
    site = "dit.double.1.text_block"
    trace = traced(nodes, loaded, sites=site, controls=0, seed=3)
    sentence = "a red circle on grass, in the style of van gogh"
    corrupted, clean, corruption, *_ = (
        nodes["DiffQuickFix_CorruptPrompt"].execute(clip, sentence, "van gogh", 3.0, 3, replaced_by="a painting").args
    )
    restoring = nodes["DiffQuickFix_RestoreUNetState"].execute(model, corruption, site, 0, 1000, "cond").args[0]
    (negative,) = stock.CLIPTextEncode().encode(clip, "")
    (empty,) = stock.EmptyLatentImage().generate(128, 128)

    def painted(model, positive):
        return stock.KSampler().sample(model, 3, 2, 3.0, "euler", "simple", positive, negative, empty)[0]["samples"]

    distance = (painted(restoring, corrupted) - painted(model, clean)).square().mean().sqrt()
    assert float(trace.restored) == pytest.approx(-float(distance), rel=5e-3)
    assert float(trace.corrupted) != pytest.approx(-float(distance), rel=2e-2)


@pytest.mark.newest
def test_what_is_shipped_paints_and_loses_a_style_that_is_removed(run):
    """In ComfyUI's own sampler, read by a reader that has nothing in common with the model; no neighbour is named."""
    model, clip, vae = run("LoadShapesDemo", variant="Shapes DiT").args
    edited = run("RemoveConcept", model, clip, REMOVED, "painting", "style", 1.0, breadth="none").args[0]
    texts = [f"a red mushroom on grass, in the style of {name}" for name in (REMOVED, *KEPT)]
    read = {}
    for name, painter in (("before", model), ("after", edited)):
        pictures = gallery_pictures(painter, clip, vae, texts, cfg=3.0, sampler="euler", scheduler="simple")
        read[name] = Reader(SHAPES_DIT).read(pictures)
    assert read["before"]["style"] == [REMOVED, *KEPT]
    assert read["after"]["style"][0] != REMOVED and read["after"]["style"][1:] == [*KEPT]
    assert all(found["color"] == ["red"] * len(texts) for found in read.values())
