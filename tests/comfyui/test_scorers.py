"""The scoring nodes: a CLIP folder, and ComfyUI's own CLIP_VISION with its text tower."""

import json

import pytest
import torch
from random_models import cached, clip_l

pytestmark = pytest.mark.usefixtures("inference")


@pytest.fixture(scope="module")
def towers():
    """One small CLIP, whole in transformers' form: its text tower is as wide as ComfyUI's loader wants it."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    text = {
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "eos_token_id": 49407,
        "bos_token_id": 49406,
    }
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 224,
        "patch_size": 14,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=768)).eval()
    for name, weight in model.named_parameters():
        torch.nn.init.normal_(weight, std=0.03, mean=1.0 if "norm" in name and name.endswith("weight") else 0.0)
    return model


@pytest.fixture
def folder(towers, comfyui, tmp_path, monkeypatch):
    """The CLIP in a folder of ComfyUI's models."""
    import folder_paths
    from transformers import CLIPTokenizer

    path = tmp_path / "clip_vision" / "small"
    towers.save_pretrained(path)
    CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer").save_pretrained(path)
    entry = ([str(tmp_path / "clip_vision")], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", entry)
    return path


def pictures():
    return torch.rand(2, 224, 224, 3, generator=torch.Generator().manual_seed(2))


def cosines(towers, prompt, tokenizer):
    from diff_quickfix.tracing.scores.clip import preprocess

    ids = torch.tensor([tokenizer.tokenize(prompt).ids])
    out = towers(input_ids=ids, pixel_values=preprocess(pictures(), 224))
    return out.logits_per_image[:, 0] / towers.logit_scale.exp()


def test_a_folder_scores_as_clip_does(nodes, towers, folder, tokenizer):
    node = nodes["DiffQuickFix_LoadCLIPScorer"]
    (found,) = (entry for entry in node.GET_SCHEMA().inputs if entry.id == "folder")
    (scorer,) = node.execute("clip_vision/small").args
    mean, lines = nodes["DiffQuickFix_CLIPScore"].execute(scorer, pictures(), "a red circle").args
    wanted = cosines(towers, "a red circle", tokenizer)
    assert [float(line) for line in lines.split()] == pytest.approx(wanted.tolist(), abs=2e-4)
    assert mean == pytest.approx(float(wanted.mean()), abs=1e-4)
    (fixed,) = node.execute("clip_vision/small", "a dog").args
    torch.testing.assert_close(fixed(pictures(), "anything"), cosines(towers, "a dog", tokenizer), atol=1e-4, rtol=0)
    assert found.options, "the list of folders is never empty, or the page could not show the node"
    with pytest.raises(ValueError, match="no CLIP"):
        node.execute("clip_vision/../../etc")


def test_a_folder_of_another_model_is_not_loaded(nodes, folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ValueError, match="t5"):
        nodes["DiffQuickFix_LoadCLIPScorer"].execute("clip_vision/small")


@pytest.fixture(scope="module")
def stock(towers, tmp_path_factory):
    """The same CLIP's halves as ComfyUI's own CLIP_VISION and CLIP."""
    import comfy.clip_vision
    import comfy.sd

    state = towers.state_dict()
    config = {
        **{
            key: getattr(towers.config.vision_config, key)
            for key in (
                "hidden_size",
                "num_hidden_layers",
                "intermediate_size",
                "num_attention_heads",
                "image_size",
                "patch_size",
                "num_channels",
                "hidden_act",
            )
        },
        "projection_dim": 768,
        "model_type": "clip_vision_model",
    }
    path = tmp_path_factory.mktemp("vision") / "config.json"
    path.write_text(json.dumps(config))
    vision = comfy.clip_vision.ClipVisionModel(str(path))
    missing, _ = vision.load_sd({k: v for k, v in state.items() if k.startswith(("vision_model.", "visual_proj"))})
    assert not missing
    clip = comfy.sd.load_text_encoder_state_dicts(
        [{k: v for k, v in state.items() if k.startswith(("text_model.", "text_projection."))}],
        clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION,
        model_options={"dtype": torch.float32},
    )
    return vision, clip


def test_comfyuis_own_towers_score_as_clip_does(nodes, towers, stock, tokenizer):
    (scorer,) = nodes["DiffQuickFix_CLIPVisionScorer"].execute(*stock).args
    spread = (cosines(towers, "a red circle", tokenizer) - cosines(towers, "two dogs on grass", tokenizer)).abs()
    assert spread.amin() > 5e-3, "the tolerance below would hide a wrong score"
    for prompt in ("a red circle", "two dogs on grass"):
        torch.testing.assert_close(scorer(pictures(), prompt), cosines(towers, prompt, tokenizer), atol=2e-3, rtol=0)
    (fixed,) = nodes["DiffQuickFix_CLIPVisionScorer"].execute(*stock, "a dog").args
    torch.testing.assert_close(fixed(pictures(), "two"), cosines(towers, "a dog", tokenizer), atol=2e-3, rtol=0)


def test_towers_of_different_clips_are_refused(nodes, stock):
    class Narrow:
        def encode_image(self, images):
            return {"image_embeds": torch.ones(len(images), 96)}

    (scorer,) = nodes["DiffQuickFix_CLIPVisionScorer"].execute(Narrow(), stock[1]).args
    with pytest.raises(ValueError, match="96 numbers a picture"):
        scorer(pictures(), "a dog")


def test_a_text_tower_without_projection_is_refused(nodes):
    import comfy.sd

    clip = comfy.sd.load_clip([str(cached("clip-l", clip_l))], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)
    with pytest.raises(ValueError, match="no text projection"):
        nodes["DiffQuickFix_CLIPVisionScorer"].execute(object(), clip)
