"""CLIPScore against transformers' own model and image processor."""

import json
import shutil

import pytest
import torch
from diff_quickfix.tracing.scores.clip import ClipScorer, ScorerError, preprocess
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer


@pytest.fixture(scope="module")
def folder(comfyui, tmp_path_factory):
    """A small CLIP with random weights and the real vocabulary, saved as transformers saves it."""
    torch.manual_seed(3)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**size, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406},
        vision_config={**size, "image_size": 48, "patch_size": 16},
        projection_dim=24,
    )
    path = tmp_path_factory.mktemp("models") / "small-clip"
    model = CLIPModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer").save_pretrained(path)
    mean = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25]}
    (path / "preprocessor_config.json").write_text(json.dumps(mean))
    return path


def pictures(height, width, number=3):
    """Smooth random pictures, as uint8 so that PIL sees the same."""
    coarse = torch.rand(number, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return (smooth * 255).round().movedim(1, -1).to(torch.uint8)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (96, 64), (57, 131), (20, 30)])
def test_pixels_are_those_of_transformers_processor(height, width):
    images = pictures(height, width)
    processor = CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    wanted = processor([Image.fromarray(image.numpy()) for image in images], return_tensors="pt")["pixel_values"]
    got = preprocess(images.float() / 255, 48)
    assert got.shape == wanted.shape
    assert (got - wanted).abs().mean() < 0.02 and (got - wanted).abs().amax() < 0.2


def test_the_score_is_the_cosine_that_clip_itself_computes(folder):
    scorer, images = ClipScorer.from_folder(folder), pictures(48, 48).float() / 255
    model, tokenizer = CLIPModel.from_pretrained(folder), CLIPTokenizer.from_pretrained(folder)
    pixels = preprocess(images, 48, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    for prompt in ("a red circle", "a photo of a cat, " * 60):
        ids = tokenizer(prompt, truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            wanted = model(**ids, pixel_values=pixels).logits_per_image[:, 0] / model.logit_scale.exp()
        torch.testing.assert_close(scorer(images, prompt), wanted, atol=1e-5, rtol=1e-4)
    assert "small-clip" in scorer.name


def test_fixed_words_take_the_prompts_place(folder):
    images = pictures(64, 48).float() / 255
    plain, fixed = ClipScorer.from_folder(folder), ClipScorer.from_folder(folder, words="a dog")
    assert torch.equal(fixed(images, "a cat"), plain(images, "a dog"))
    assert not torch.equal(plain(images, "a cat"), plain(images, "a dog"))
    assert "'a dog'" in fixed.name


def test_gradients_reach_the_pictures(folder):
    images = (pictures(48, 48).float() / 255).requires_grad_()
    ClipScorer.from_folder(folder)(images, "a dog").sum().backward()
    assert images.grad.abs().amax() > 0


def test_bad_folders_are_refused(folder, tmp_path):
    with pytest.raises(ScorerError, match=r"config\.json"):
        ClipScorer.from_folder(tmp_path)
    for name, remove, change, message in (
        ("pickled", "model.safetensors", None, "safetensors"),
        ("dumb", "tokenizer*", None, "tokenizer"),
        ("bert", None, {"model_type": "bert"}, "bert"),
        ("list", None, [], "damaged"),
    ):
        copy = shutil.copytree(folder, tmp_path / name)
        for path in copy.glob(remove or "nothing"):
            path.unlink()
        for vocabulary in copy.glob("vocab.json") if name == "dumb" else ():
            vocabulary.unlink()
        if change is not None:
            (copy / "config.json").write_text(json.dumps(change))
        with pytest.raises(ScorerError, match=message):
            ClipScorer.from_folder(copy)
