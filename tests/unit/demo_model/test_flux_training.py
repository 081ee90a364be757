"""The training of Shapes DiT: its stages run, go on where they were interrupted, and export what they learned."""

import dataclasses
import functools
import math

import numpy as np
import pytest
import torch
from diff_quickfix.demo_model import t5 as texts_module
from diff_quickfix.demo_model.architecture import EOS, SHAPES_DIT, SHAPES_XL, T5_PAD, UNETS
from diff_quickfix.demo_model.autoencoder import Autoencoder
from diff_quickfix.demo_model.clip import Clip
from diff_quickfix.demo_model.flux import load_dit_pipeline, new_transformer, velocity
from diff_quickfix.demo_model.t5 import DiTTexts, T5Tokenizer
from diff_quickfix.demo_model.training import bidirectional, export, flow, perceptual, train, training_set
from diff_quickfix.demo_model.training.fitting import fit
from diff_quickfix.demo_model.training.training_set import FLUX_RECIPES, load_pictures, to_signed
from diff_quickfix.text import other_tokenizers
from safetensors.torch import load_file

SMALL = dataclasses.replace(
    SHAPES_DIT,
    t5={**SHAPES_DIT.t5, "num_layers": 1},
    transformer={**SHAPES_DIT.transformer, "num_layers": 1, "num_single_layers": 1},
)
RECIPE = dataclasses.replace(
    FLUX_RECIPES["dit"],
    pictures=48,
    t5_steps=2,
    t5_batch=8,
    reader_steps=2,
    reader_batch=4,
    flow_steps=3,
    flow_batch=2,
)
LATENT_SIZES = bidirectional.attribute_codes(SMALL.world, [])[1]


@pytest.fixture(scope="module", autouse=True)
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_set, "SHAPES_DIT", SMALL)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which all stages have run, on Shapes XL's parts with weights that nobody trained."""
    out = tmp_path_factory.mktemp("dit")
    torch.manual_seed(1)
    source = dataclasses.replace(SHAPES_XL, folder=out / "xl", shared=out / "world")
    clip = dict(Clip(SHAPES_XL).state_dict())
    vision = {name: clip.pop(name) for name in list(clip) if name.startswith("vision.")}
    export.save_part("clip", clip, source.folder)
    export.save_part("vision", vision, source.shared)
    export.save_part("autoencoder", Autoencoder().state_dict(), source.shared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(UNETS, "xl", source)
        for stage in list(train.FLUX_STAGES.values())[:-1]:
            stage(RECIPE, out)
    return out


@pytest.fixture(scope="module")
def shipped(trained):
    """Where that folder was exported to."""
    architecture = dataclasses.replace(SMALL, folder=trained / "dit", shared=trained / "world")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "CAPTIONS", 500)
        export.export_flux(RECIPE, trained, architecture)
    return architecture


def test_pictures_are_embedded_once_and_latents_are_the_autoencoders(trained):
    pictures, _ = load_pictures(trained)
    state = load_file(trained / bidirectional.TAKEN)
    clip = Clip(SHAPES_XL)
    clip.load_state_dict(state)
    looked = load_file(trained / "seen.safetensors")
    seen, features = looked["seen"], looked["features"]
    latents = load_file(trained / "latents.safetensors")["latents"]
    assert len(seen) == len(latents) == 48 and features.shape == (48, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(seen[40:], clip.vision(to_signed(pictures[40:])), atol=1e-5, rtol=1e-4)
        maps = clip.vision.features(to_signed(pictures[40:]))
        torch.testing.assert_close(features[40:, 8 * 3 + 5].float(), maps[:, :, 3, 5], atol=1e-2, rtol=1e-2)


def test_only_what_is_trained_learns(trained):
    texts = bidirectional.started_texts(RECIPE, trained)
    assert not any(weight.requires_grad for weight in texts.clip.parameters())
    state = load_file(trained / "transformer.safetensors")
    names = [name.removeprefix("transformer.") for name in state if name.startswith("transformer.")]
    assert names and any(not torch.equal(state[f"transformer.{n}"], state[f"average.{n}"]) for n in names)
    assert load_file(trained / "t5.optimizer.safetensors")["step"] == 2


def test_the_middle_is_the_image_stream_between_the_kinds_of_blocks():
    torch.manual_seed(3)
    transformer = new_transformer(SMALL)
    middle = flow.Middle(transformer, 5, [2, 3])
    given = {}
    first = transformer.single_transformer_blocks[0]
    first.register_forward_pre_hook(lambda block, _, named: given.update(named), with_kwargs=True)
    latents, states, pooled = torch.randn(2, 16, 8, 8), torch.randn(2, 7, 160), torch.randn(2, 96)
    velocity(transformer, latents, torch.full((2,), 0.5), states, pooled)
    features, guesses = middle()
    stream = given["hidden_states"][:, -16:]
    torch.testing.assert_close(features, middle.features(stream))
    torch.testing.assert_close(guesses, middle.readers(stream.mean(1)))


def test_the_network_that_reads_latents_sees_what_is_apart_and_stays_as_it_is(trained):
    reader = perceptual.trained_latent_reader(RECIPE, trained, LATENT_SIZES)
    latents = load_file(trained / "latents.safetensors")["latents"][:4]
    assert not any(weight.requires_grad for weight in reader.parameters())
    assert reader(latents).shape == (4, sum(LATENT_SIZES))
    torch.testing.assert_close(perceptual.seen_apart(reader, latents, latents), torch.zeros(4), atol=1e-5, rtol=0)
    near, far = (perceptual.seen_apart(reader, latents + by * latents.flip(0), latents) for by in (0.01, 1.0))
    assert bool((near < far).all()) and bool((near > 0).all())
    # Scaling a feature map, as a paler picture would, is nothing to it; the guess gets a gradient, the target none.
    guess, clean = latents.flip(0).requires_grad_(), latents.clone().requires_grad_()
    perceptual.seen_apart(reader, guess, clean).sum().backward()
    assert guess.grad is not None and bool(guess.grad.any()) and clean.grad is None


def test_an_interrupted_transformer_goes_on_bit_for_bit(trained, tmp_path, monkeypatch):
    for path in trained.glob("*.*"):
        if not path.stem.startswith("transformer"):
            (tmp_path / path.name).symlink_to(path)
    monkeypatch.setattr(flow, "fit", functools.partial(fit, save_every=1))
    draws = iter([flow.drawn_levels] * 2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StopIteration):
        patch.setattr(flow, "drawn_levels", lambda *given: next(draws)(*given))
        flow.train_transformer(RECIPE, tmp_path)
    assert load_file(tmp_path / "transformer.optimizer.safetensors")["step"] == 2
    flow.train_transformer(RECIPE, tmp_path)
    whole, broken = (load_file(folder / "transformer.safetensors") for folder in (trained, tmp_path))
    assert whole.keys() == broken.keys() and all(torch.equal(whole[name], broken[name]) for name in whole)


def test_what_is_shipped_is_what_was_trained(trained, shipped):
    """Of a caption's words; others say nothing. The tower for the pooled vector comes with it."""
    words = ["a red boat on grass, by frank stella", ""]
    texts = bidirectional.trained_texts(RECIPE, trained)
    pipeline = load_dit_pipeline(shipped)
    known = kept(shipped.folder / "t5.safetensors", "t5.shared")
    assert set(pipeline.texts.tokens(words).flatten().tolist()) < set(known)
    with torch.no_grad():
        wanted, found = texts.condition(words), pipeline.texts.condition(words)
    torch.testing.assert_close(found[0], wanted[0], atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(found[1], wanted[1], atol=2e-2, rtol=2e-2)
    unknown = [one for one in T5Tokenizer()("zebra crossing")["input_ids"] if one not in known]
    assert unknown and not pipeline.texts.t5.shared.weight[unknown].any()
    average = load_file(trained / "transformer.safetensors")
    for name, value in pipeline.transformer.state_dict().items():
        assert torch.equal(value, average[f"average.{name}"].half().float())
    ids = kept(shipped.folder / "clip.safetensors", "text_l.token")
    assert EOS in ids and T5_PAD in known
    assert pipeline.paint(["a red boat on grass"], [1], steps=2).shape == (1, 3, 128, 128)


def kept(path, name):
    return load_file(path)[f"{name}_ids"].tolist()


def test_a_restored_training_goes_on_from_what_is_shipped(trained, shipped, tmp_path, monkeypatch):
    """On another machine, after Shapes XL was trained anew: the tower that the transformer reads stays."""
    export.restore_flux(RECIPE, tmp_path, shipped)
    for name in ("pictures.npy", "scenes.json"):
        (tmp_path / name).symlink_to(trained / name)
    other = dataclasses.replace(SHAPES_XL, folder=trained / "xl2", shared=trained / "world")
    torch.manual_seed(2)
    clip = {k: v for k, v in Clip(SHAPES_XL).state_dict().items() if not k.startswith("vision.")}
    export.save_part("clip", clip, other.folder)
    monkeypatch.setitem(UNETS, "xl", other)
    bidirectional.take_over(RECIPE, tmp_path)
    words = ["a red boat on grass, by frank stella"]
    with torch.no_grad():
        found = bidirectional.trained_texts(RECIPE, tmp_path).condition(words)
        for one, wanted in zip(found, load_dit_pipeline(shipped).texts.condition(words), strict=True):
            assert torch.equal(one, wanted)
    state, wanted = load_file(tmp_path / "transformer.safetensors"), load_file(trained / "transformer.safetensors")
    learned = [key.partition(".") for key in wanted if not key.startswith("middle.")]
    assert state.keys() == {"".join(key) for key in learned}
    assert all(
        torch.equal(state[f"{one}.{name}"], wanted[f"average.{name}"].half().float()) for one, _, name in learned
    )


def test_parts_that_are_not_shipped_are_named(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(UNETS, "xl", dataclasses.replace(SHAPES_XL, folder=SHAPES_XL.shared / "nowhere"))
    for name in ("pictures.npy", "scenes.json"):
        (tmp_path / name).symlink_to(trained / name)
    with pytest.raises(FileNotFoundError, match=r"clip\.safetensors in .*make train MODEL=xl"):
        bidirectional.take_over(RECIPE, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"latents\.safetensors is not in .*Run the stage `parts` first"):
        flow.train_transformer(RECIPE, tmp_path)


def test_a_caption_is_the_mean_of_its_words_not_of_its_pads():
    texts = DiTTexts().eval()
    with torch.no_grad():
        (found,) = bidirectional.caption_means(texts, ["a red boat"])
        tokens = texts.tokens(["a red boat"])
        count = len(T5Tokenizer()("a red boat")["input_ids"])
        torch.testing.assert_close(found, texts.states(tokens)[0, :count].mean(0))
    assert tokens[0, count - 1] == 1 and not tokens[0, count:].any() and tokens.shape[1] == SHAPES_DIT.length


def test_too_long_a_prompt_and_a_missing_vocabulary_are_told(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"has 51 T5 tokens; Shapes DiT reads 40"):
        DiTTexts().tokens(["boat " * 50])
    for module in (texts_module, other_tokenizers):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "a" / "b" / "c" / "t5.py"))
    with pytest.raises(FileNotFoundError, match=r"No T5 vocabulary found .*part of ComfyUI"):
        T5Tokenizer(tmp_path / "other")


def test_noise_levels_are_logit_normal_and_some_even():
    recipe = dataclasses.replace(RECIPE, flow_batch=200_000, flow_mean=0.5, flow_deviation=0.8, flow_uniform=0.25)
    levels = flow.drawn_levels(recipe, np.random.default_rng(0)).double()
    for place in (0.02, 0.2, 0.5, 0.7, 0.95):
        logit = (math.log(place / (1 - place)) - 0.5) / 0.8
        expected = 0.25 * place + 0.75 * 0.5 * (1 + math.erf(logit / math.sqrt(2)))
        assert abs(float((levels < place).double().mean()) - expected) < 0.005
