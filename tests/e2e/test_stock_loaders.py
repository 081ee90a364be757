"""Models of Stable Diffusion 1.5's real size (random weights) through ComfyUI's own loader, saver and sampler nodes."""

import numpy as np
import pytest
import torch
from diff_quickfix.demo_model.studies.server import ServerError
from random_models import clip_l, sd15
from safetensors.torch import load_file

PROMPT = "a house in the style of van gogh"
KEY = "text_model.encoder.layers.0.self_attn.out_proj.weight"


@pytest.fixture(scope="module")
def models(server, put_model):
    """The server, with the files where the stock loaders look."""
    put_model("checkpoints/random.safetensors", sd15)
    put_model("text_encoders/random.safetensors", clip_l)
    return server


def edit_node(clip, **changes):
    inputs = {
        "clip": clip,
        "source": "van gogh",
        "target": "painting",
        "kind": "style",
        "preset": "paper",
        "layer": 0,
        "lam": 0.0,
        "positions": "last subject token and padding",
        "strength": 1.0,
        **changes,
    }
    return {"class_type": "DiffQuickFix_Edit", "inputs": inputs}


def text(clip, words):
    return {"class_type": "CLIPTextEncode", "inputs": {"clip": clip, "text": words}}


def painting(clip):
    """A picture of 64 x 64 pixels in two steps, its positive prompt read by one of the nodes."""
    return {
        "load": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "random.safetensors"}},
        "edit": edit_node(["load", 1]),
        "idle": edit_node(["load", 1], strength=0.0),
        "positive": text([clip, 1 if clip == "load" else 0], PROMPT),
        "negative": text(["load", 1], ""),
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["load", 0],
                "positive": ["positive", 0],
                "negative": ["negative", 0],
                "latent_image": ["latent", 0],
                "seed": 1,
                "steps": 2,
                "cfg": 3.0,
                "sampler_name": "euler",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["load", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": f"loaders/{clip}"}},
    }


def test_a_checkpoint_is_edited_and_painted(models):
    found = {}
    for clip in ("load", "idle", "edit"):
        outputs = models.run(painting(clip))
        found[clip] = models.picture(outputs["save"]["images"][0])
    assert found["load"].shape == (64, 64, 3)
    assert np.array_equal(found["load"], found["idle"])
    assert not np.array_equal(found["load"], found["edit"])


@pytest.mark.newest
def test_a_checkpoint_is_traced(models):
    """Two of the text encoder's twelve layers and one of the UNet's sites, without a scorer."""
    graph = painting("load")
    common = {
        "model": ["load", 0],
        "clip": ["load", 1],
        "vae": ["load", 2],
        "negative": ["negative", 0],
        "latent": ["latent", 0],
        "prompts": "a house in the style of [van gogh]",
        "window": 1,
        "noise": 3.0,
        "draws": 1,
        "seed": 0,
        "seeds": 1,
        "controls": 1,
        "steps": 2,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "sever": "nothing",
        "batch_size": 4,
        "checkpoint": "",
    }
    for name, special in (
        ("Text", {"kind": "self_attn", "sites": "text.0.*, text.11.*", "columns": "places"}),
        ("UNet", {"kind": "cross_attn", "sites": "unet.middle.*", "step_windows": 2, "branch": "cond"}),
    ):
        graph["trace"] = {"class_type": f"DiffQuickFix_CausalTrace{name}", "inputs": {**common, **special}}
        graph["place"] = {
            "class_type": "DiffQuickFix_LocateCausalState",
            "inputs": {
                "trace": ["trace", 0],
                "kind": special["kind"],
            },
        }
        graph["say"] = {"class_type": "PreviewAny", "inputs": {"source": ["place", 4]}}
        kept = {key: node for key, node in graph.items() if key not in ("sampler", "decode", "save", "edit", "idle")}
        (report,) = models.run(kept)["say"]["text"]
        assert "average indirect effect" in report and ("text." in report) == (name == "Text")


def test_an_edited_clip_is_saved_with_the_edit_in_it(models):
    """CLIPLoader, the edit, CLIPSave: the file holds the base weight plus the edit, and all other weights as before."""
    graph = {
        "load": {"class_type": "CLIPLoader", "inputs": {"clip_name": "random.safetensors", "type": "stable_diffusion"}},
        "edit": edit_node(["load", 0]),
        "save": {"class_type": "CLIPSave", "inputs": {"clip": ["edit", 0], "filename_prefix": "saved/edited"}},
    }
    models.run(graph)
    (path,) = (models.folder / "output" / "saved").glob("*.safetensors")
    saved, base = load_file(path), load_file(models.folder / "models" / "text_encoders" / "random.safetensors")
    (key,) = (name for name in saved if name.endswith(KEY))
    prefix = key.removesuffix(KEY)
    changed = [name for name, weight in base.items() if not torch.equal(saved[prefix + name].float(), weight.float())]
    assert changed == [KEY]
    delta = saved[key].float() - base[KEY].float()
    rank = int((torch.linalg.svdvals(delta.double()) > 0.01 * torch.linalg.matrix_norm(delta.double(), 2)).sum())
    assert 1 <= rank <= 300 and float(delta.norm() / base[KEY].float().norm()) > 1e-3


def test_another_familys_clip_is_edited_and_an_encoder_that_it_lacks_refused_in_plain_words(models):
    graph = {
        "load": {"class_type": "CLIPLoader", "inputs": {"clip_name": "random.safetensors", "type": "sd3"}},
        "edit": edit_node(["load", 0]),
        "positive": text(["edit", 0], PROMPT),
        "say": {"class_type": "PreviewAny", "inputs": {"source": ["edit", 2]}},
    }
    assert "edited: CLIP-L of Stable Diffusion 3;" in models.run(graph)["say"]["text"][0]
    graph["edit"] = edit_node(["load", 0], encoder="both")
    with pytest.raises(ServerError, match=r"no text encoder 'both': found clip_l of Stable Diffusion 3"):
        models.run(graph)
