"""Edits of a conditioning alone: models of no known family, and models that make other states of their text."""

import dataclasses
import functools

import pytest
import torch
from small_encoders import fill_clip, objects, present

# Text encoders whose states are found out by encoding, with whether each token's state knows the later ones.
KNOWN = {
    "z-image": "causal",
    "qwen-image": "causal",
    "krea2": "causal",
    "flux": "bidirectional",
    "lumina2": "causal",
    "wan": "bidirectional",
    "newbie": "causal",
    "hunyuan-image": "causal",
    "ovis": "causal",
    "longcat": "causal",
}


@functools.cache
def aura_flow():
    """A MODEL whose doors are not known, and its CLIP: ComfyUI's own classes, small, random weights."""
    import comfy.model_patcher
    import comfy.sd
    import comfy.supported_models
    import comfy.text_encoders.aura_t5 as aura

    config = comfy.supported_models.AuraFlow(
        {
            "in_channels": 4,
            "dim": 64,
            "n_layers": 2,
            "n_double_layers": 1,
            "n_heads": 2,
            "global_conddim": 64,
            "cond_seq_dim": 32,
            "max_seq": 64,
        }
    )
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu")
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.diffusion_model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    model.diffusion_model.float().eval()

    class Target:
        clip, tokenizer = aura.AuraT5Model, aura.AuraT5Tokenizer
        params: dict = {}  # noqa: RUF012

    small = {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 2, "num_layers": 2}
    clip = comfy.sd.CLIP(Target, model_options={"pile_t5xl_model_config": small, "dtype": torch.float32})
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, cpu, cpu), fill_clip(clip)


@pytest.fixture
def edit_alone(run):
    def edit(model, clip, concept="van gogh", becomes="painting", positions="last subject token and later"):
        chosen = (concept, becomes, "style", 1.0, "conditioning alone", "*", positions)
        return run("EditImageModel", model, clip, *chosen).args

    return edit


def encoded(clip, prompt):
    import nodes as stock

    with torch.inference_mode():
        return stock.CLIPTextEncode().encode(clip, prompt)[0]


def test_an_unknown_model_is_told_the_way_and_the_way_works(run, edit_alone):
    import comfy.sample

    model, clip = aura_flow()
    with pytest.raises(ValueError, match=r'"conditioning alone" in Edit Image Model.*Apply Edit to Conditioning'):
        run("RemoveConcept", model, clip, "van gogh", "painting", "style", 1.0, breadth="none")
    with pytest.raises(ValueError, match="conditioning alone"):
        run("EditImageModel", model, clip, "van gogh", "painting", "style", 1.0, "default", "*", "last subject token")
    edited, same, edit, report = edit_alone(model, clip)
    assert not edited.patches and not same.patcher.patches and edit.rank > 0
    assert "no weight" in report and "whole aligned caption" in report
    plain = encoded(clip, "a house by van gogh")
    given = run("ApplyToConditioning", plain, edit, 1.0).args[0]
    states = plain[0][0]
    torch.testing.assert_close(given[0][0], states + states @ edit.down.T @ edit.up.T)
    assert float((given[0][0] - states).norm()) > 1e-2 * float(states.norm())
    noise = torch.randn(1, 4, 8, 8)
    pictures = [
        comfy.sample.sample(
            model, noise, 1, 1.0, "euler", "simple", positive, positive, torch.zeros_like(noise), seed=1
        )
        for positive in (plain, given)
    ]
    assert not torch.allclose(*pictures)
    assert "looked at" in run("CollateralRadar", clip, edit, 5).args[0]


def test_with_nothing_preserved_the_sources_conditioning_becomes_the_targets(pack, inference):
    from pack_under_test.families.doors import CONDITIONING
    from pack_under_test.nodes.host.editing.conditioning import apply_to_conditioning
    from pack_under_test.nodes.host.editing.text_states import open_text_states
    from pack_under_test.quickfix import ConceptEdit, doors_settings, edit_doors, pair_tokens

    _, clip = aura_flow()
    states = open_text_states(clip, CONDITIONING)
    assert not states.tower.causal
    template = "a photo by {x}, at night"
    settings = doors_settings(CONDITIONING, "last subject token")
    settings = dataclasses.replace(settings, lam=1e-7, preserve=(), preserve_weight=0.0)
    concepts = [ConceptEdit("van gogh", "painting", "custom", (template,))]
    edit = edit_doors(states.tower, states.tokenizer, concepts, settings, (), None)
    pairs = pair_tokens(states.tokenizer, [("van gogh", "painting", (template,))], settings.positions)
    here, there = pairs.source[:, 1], pairs.target[:, 1]
    source, target = (encoded(clip, template.replace("{x}", name)) for name in ("van gogh", "painting"))
    found = apply_to_conditioning(source, edit, 1.0)[0][0][0][here]
    was, wanted = source[0][0][0][here], target[0][0][0][there]
    assert float((found - wanted).norm()) < 0.05 * float((was - wanted).norm())


@pytest.mark.newest
@pytest.mark.parametrize("family", [name for name in KNOWN if name in present()])
def test_what_a_text_encoder_is_like_is_found_out(pack, inference, family):
    from pack_under_test.families.doors import CONDITIONING
    from pack_under_test.nodes.host.editing.text_states import open_text_states

    clip = objects(family)[1]
    states = open_text_states(clip, CONDITIONING)
    assert states.tower.causal == (KNOWN[family] == "causal") and states.tower.encoder == "conditioning"
    prompt = "a red star in the style of van gogh"
    given, options = encoded(clip, prompt)[0]
    (row,) = states.tokenizer.tokenize_all([prompt])
    found = states.reader.states([row.ids])[0]
    cut = sum(token >= 0 for token in row.ids) - given.shape[1] - states.reader.tail
    torch.testing.assert_close(found[cut : cut + given.shape[1]], given[0].float(), rtol=1e-4, atol=1e-4)
    pooled = options.get("pooled_output")
    assert (states.pooled is None) == (pooled is None)
    if pooled is not None:
        torch.testing.assert_close(states.pooled([prompt]), pooled, rtol=1e-4, atol=1e-4)


@pytest.mark.newest
def test_a_known_model_that_makes_other_states_of_its_text_is_edited_by_its_conditioning(run, edit_alone):
    model, clip = objects("z-image")
    edit, report = edit_alone(model, clip)[2:]
    assert edit.encoder == "conditioning" and edit.settings.positions == "last subject token and later"
    assert "whole aligned caption" not in report
    plain = encoded(clip, "a house by van gogh")
    given = run("ApplyToConditioning", plain, edit, 1.0).args[0]
    assert not torch.allclose(given[0][0], plain[0][0])
    with pytest.raises(ValueError, match="beside its text states"):
        edit_alone(*objects("anima"))
