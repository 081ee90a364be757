"""Tracing and scoring on the device: the numbers of the CPU, wherever ComfyUI keeps models and pictures."""

import json

import pytest
import torch
from conditioning import encode
from loading import has_memory, with_lora
from pretended import DEVICE
from runs import PROMPT, conditioning, hooks_of, sample, sweep_inputs

pytestmark = pytest.mark.usefixtures("inference", "folders")
TEXT = {"sites": "text.0.*", "kind": "self_attn", "columns": "places"}
UNET = {"sites": "unet.middle.*", "kind": "cross_attn", "step_windows": 1, "branch": "cond"}
TRACES = {"Text": TEXT, "UNet": UNET}


@pytest.fixture(scope="module")
def on_cpu(nodes, shapes):
    """A trace of each kind with everything on the CPU."""
    with torch.inference_mode():
        return {
            name: nodes[f"DiffQuickFix_CausalTrace{name}"].execute(**inputs(shapes, name)).args[0] for name in TRACES
        }


def inputs(models, name, **more):
    own = dict(TRACES[name])
    shared = {key: own.pop(key) for key in ("sites", "kind")}
    small = {"latent": {"samples": torch.zeros(1, 4, 8, 8)}, "controls": 1}
    return {**sweep_inputs(models, **small | shared | more), **own}


def same_trace(found, wanted):
    for name in ("clean", "corrupted", "restored", "control"):
        one, other = getattr(found, name), getattr(wanted, name)
        assert type(one) is torch.Tensor and one.device.type == "cpu"
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "memory"), [("Text", "plenty"), ("Text", "little"), ("UNet", "little"), ("UNet", "no")]
)
def test_a_trace_is_that_of_the_cpu(moved, run, on_cpu, monkeypatch, name, memory):
    if memory != "plenty":
        size = moved[0].model_size() + moved[1].patcher.model_size()
        has_memory(monkeypatch, size // 2 if memory == "little" else 1)
    trace, pictures = run(f"CausalTrace{name}", **inputs(moved, name)).args
    same_trace(trace, on_cpu[name])
    assert pictures.device.type == "cpu"
    assert not any(map(hooks_of, (moved[0].model, moved[1].cond_stage_model)))


def test_pictures_and_text_states_may_stay_on_the_device(moved, run, nodes, on_cpu, monkeypatch, accelerator):
    """As with --gpu-only."""
    monkeypatch.setattr(accelerator, "intermediate_device", lambda: DEVICE)
    moved[2].output_device = DEVICE
    (scorer,) = run("ShapesScorer", "").args
    whole = {"latent": {"samples": torch.zeros(1, 4, 16, 16)}}
    trace, pictures = run("CausalTraceText", **inputs(moved, "Text", scorer=scorer, **whole)).args
    assert pictures.device == DEVICE and trace.restored.device.type == "cpu"
    run("CausalHeatmap", trace, "indirect effect", 400, pictures)
    mean, lines = run("CLIPScore", scorer, pictures, PROMPT).args
    assert mean == pytest.approx(sum(map(float, lines.split())) / len(pictures), abs=1e-4)
    file = run("SaveTrace", trace, "trace", True).args[0]
    same_trace(run("LoadTrace", file).args[0], trace)
    plain, _ = run("CausalTraceText", **inputs(moved, "Text")).args
    same_trace(plain, on_cpu["Text"])


def restored(models, run):
    model, clip, _ = models
    corrupted, _, corruption = run("CorruptPrompt", clip, PROMPT, "van gogh", 3.0, 0, "").args
    swapped, *_ = run("CorruptPrompt", clip, PROMPT, "van gogh", 3.0, 0, "claude monet").args
    text = run("RestoreTextState", corruption, 0, "self_attn", "all").args[0]
    patched = run("RestoreUNetState", model, corruption, "unet.middle.*", 0, 10000, "cond").args[0]
    picture = sample(patched, corrupted, conditioning(clip, ""), size=8)
    return [part.cpu() for part in (corrupted[0][0], swapped[0][0], text[0][0], picture)]


@pytest.mark.parametrize("state", ["plain", "little memory", "a LoRA on everything"])
def test_corrupted_and_restored_runs_are_those_of_the_cpu(moved, shapes, run, monkeypatch, state):
    if state == "little memory":
        has_memory(monkeypatch, 27_000_000)
    lora = with_lora if state.startswith("a LoRA") else lambda clip: clip
    found, wanted = (restored((models[0], lora(models[1]), models[2]), run) for models in (moved, shapes))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def tiny_clip(folder, comfyui):
    """A CLIP in transformers' format, as a folder."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    torch.manual_seed(1)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {**shape, "image_size": 32, "patch_size": 16}
    with torch.inference_mode(False):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
        model.save_pretrained(folder)
    CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer").save_pretrained(folder)


@pytest.mark.parametrize("memory", [2**40, 4_000_000, 1])
def test_a_folders_clip_scores_on_the_device(pack, accelerator, comfyui, tmp_path, monkeypatch, memory):
    from pack_under_test.nodes.host.scorers import FolderScorer
    from pack_under_test.tracing.scores.clip import ClipScorer

    tiny_clip(tmp_path / "clip", comfyui)
    pictures = torch.rand(2, 40, 32, 3, generator=torch.Generator().manual_seed(2))
    wanted = ClipScorer.from_folder(tmp_path / "clip")(pictures, "a red circle")
    has_memory(monkeypatch, memory)
    found = FolderScorer(tmp_path / "clip")
    for given in (pictures, pictures.to(DEVICE)):
        scores = found(given, "a red circle")
        assert scores.device.type == "cpu"
        torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-4)


def test_comfyuis_own_towers_score_on_the_device(moved, shapes, run, tmp_path):
    import comfy.clip_vision
    import comfy.utils

    projection = "clip_l.transformer.text_projection.weight"
    width = comfy.utils.get_attr(moved[1].cond_stage_model, projection).shape[0]
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    pixels = {"num_channels": 3, "image_size": 32, "patch_size": 16, "hidden_act": "quick_gelu"}
    path = tmp_path / "vision.json"
    path.write_text(json.dumps({"model_type": "clip_vision_model", "projection_dim": width, **shape, **pixels}))
    generator, visions = torch.Generator().manual_seed(5), []
    weight = 0.05 * torch.randn(width, width, generator=generator)
    comfy.utils.set_attr_param(moved[1].cond_stage_model, projection, weight)
    for device in (DEVICE, torch.device("cpu")):
        vision = comfy.clip_vision.ClipVisionModel(str(path))
        vision.load_device = vision.patcher.load_device = device
        state = vision.model.state_dict()
        generator.manual_seed(6)
        vision.load_sd({key: 0.2 * torch.randn(value.shape, generator=generator) for key, value in state.items()})
        visions.append(vision)
    pictures = torch.rand(2, 32, 32, 3, generator=generator)
    encode(moved[1], "")
    (scorer,) = run("CLIPVisionScorer", visions[0], moved[1], "").args
    found = scorer(pictures, PROMPT)
    seen = visions[1].encode_image(pictures)["image_embeds"].float()
    text = shapes[1].encode_from_tokens(shapes[1].tokenize(PROMPT), return_pooled="unprojected")[1] @ weight.T
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, torch.cosine_similarity(seen, text), atol=1e-4, rtol=1e-3)
