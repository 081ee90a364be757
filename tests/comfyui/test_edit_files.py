"""Edits as files in a real ComfyUI: the stock LoRA loader, Load Edit, and diffusers give what the node gave."""

import math
import os
from pathlib import Path

import pytest
import torch
from conditioning import encode
from diff_quickfix.quickfix import ConceptEdit, compute_edit, load_edit, open_text_encoder, preset
from random_models import cached, clip_l, randomized, sd15
from safetensors import safe_open
from safetensors.torch import load_file, save_file

PROMPT = "a red circle on grass, in the style of van gogh"
OUT_PROJ = "encoder.layers.0.self_attn.out_proj.weight"


@pytest.fixture(autouse=True)
def own_folders(folders):
    """Nothing is written to ComfyUI's own folders."""


@pytest.fixture
def save(nodes):
    def run(edit, name="edit", naming="kohya", energy=1.0, precision="fp32"):
        with torch.inference_mode():
            return nodes["DiffQuickFix_SaveEditAsLoRA"].execute(edit, name, naming, energy, precision).args[0]

    return run


@pytest.fixture
def load(nodes):
    def run(clip, file, strength=1.0):
        with torch.inference_mode():
            return nodes["DiffQuickFix_LoadEdit"].execute(clip, file, strength).args

    return run


def stock_loader(model, clip, name, strength=1.0):
    import nodes as comfyui_nodes

    return comfyui_nodes.LoraLoader().load_lora(model, clip, name, 0.0, strength)[1]


def patched(clip, encoder="clip_l"):
    """The edited weight under all patches, as ComfyUI computes it; the module's own tensor may carry other patches."""
    import comfy.lora

    key = f"{encoder}.transformer.text_model.{OUT_PROJ}"
    (base, convert), *patches = clip.patcher.get_key_patches(key)[key]
    return comfy.lora.calculate_weight(patches, convert(base).detach().float().clone(), key)


def load_clip_l(dtype=torch.float32):
    import comfy.sd

    path = str(cached("clip-l", clip_l))
    options = {"dtype": dtype}
    return comfy.sd.load_clip([path], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION, model_options=options)


@pytest.mark.parametrize("naming", ["kohya", "comfyui"])
@pytest.mark.parametrize("which", ["shapes", "real size"])
def test_the_stock_loader_gives_the_weights_of_the_node(shapes, edit, save, load, which, naming):
    clip = shapes[1] if which == "shapes" else load_clip_l()
    for strength in (1.0, -0.5) if which == "shapes" else (1.0,):
        edited, change, _ = edit(clip, strength=strength)
        name = save(change, naming=naming)
        before, wanted = patched(clip), patched(edited)
        for found in (stock_loader(shapes[0], clip, name, strength), load(clip, name, strength)[0]):
            assert (patched(found) - wanted).norm() < 1e-5 * (wanted - before).norm()
            torch.testing.assert_close(encode(found, PROMPT), encode(edited, PROMPT), atol=1e-4, rtol=1e-4)
    off = encode(clip, PROMPT)
    assert torch.equal(encode(stock_loader(shapes[0], clip, name, 0.0), PROMPT), off)
    assert torch.equal(encode(load(clip, name, 0.0)[0], PROMPT), off)
    assert not torch.equal(encode(edited, PROMPT), off)


def sd2_clip():
    """CLIP-H at real width under ComfyUI's loader for Stable Diffusion 2.x, three of its layers only."""
    import comfy.ops
    import comfy.supported_models
    import comfy.text_encoders.sd2_clip
    from comfy.clip_model import CLIPTextModel_
    from comfy.sd import CLIP

    small = {
        "num_hidden_layers": 3,
        "hidden_size": 1024,
        "num_attention_heads": 16,
        "intermediate_size": 512,
        "hidden_act": "gelu",
        "max_position_embeddings": 77,
        "eos_token_id": 49407,
    }
    target = comfy.supported_models.SD20({}).clip_target({})
    clip = CLIP(target, model_options={"clip_h_model_config": small, "dtype": torch.float32})
    tower = CLIPTextModel_(small, torch.float32, "cpu", comfy.ops.disable_weight_init)
    state = {f"clip_h.transformer.{n}": v.float() for n, v in randomized(tower, "text_model.", 4).items()}
    missing, unexpected = clip.cond_stage_model.load_state_dict(state, strict=False)
    assert not unexpected and all("text_model" not in name for name in missing)
    return clip


@pytest.mark.parametrize("naming", ["kohya", "comfyui"])
def test_stable_diffusion_2_too(shapes, edit, save, load, naming):
    clip = sd2_clip()
    edited, change, _ = edit(clip)
    assert change.encoder == "clip_h"
    name = save(change, naming=naming)
    wanted = patched(edited, "clip_h")
    for found in (stock_loader(shapes[0], clip, name), load(clip, name)[0]):
        assert (patched(found, "clip_h") - wanted).norm() < 1e-5 * (wanted - patched(clip, "clip_h")).norm()


@pytest.mark.parametrize("naming", ["kohya", "comfyui"])
def test_sdxls_loader_finds_the_encoder_that_was_edited(shapes, edit, save, folders, naming):
    """SDXL has two CLIPs, and an edit saved for the one must not land in the other."""
    import dataclasses

    import comfy.sd
    import comfy.sdxl_clip
    import comfy.supported_models_base

    small = {"num_hidden_layers": 3, "hidden_size": 128, "num_attention_heads": 8, "intermediate_size": 64}
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options={"clip_l_model_config": small, "clip_g_model_config": small})
    change = edit(shapes[1])[1]
    for encoder, key in (("sdxl_clip_l", "clip_l"), ("sdxl_clip_g", "clip_g")):
        name = save(dataclasses.replace(change, encoder=encoder), naming=naming)
        loaded = stock_loader(shapes[0], clip, name)
        # Modules of zeros stand in the file for other programs.
        moved = {where for where, ((_, lora, *_),) in loaded.patcher.patches.items() if lora.weights[0].any()}
        assert moved == {f"{key}.transformer.text_model.{OUT_PROJ}"}


def test_load_edit_gives_back_the_edit_and_measures_it_here(shapes, edit, save, load):
    _, change, report = edit(shapes[1])
    loaded, back, measured, _ = load(shapes[1], save(change, energy=0.999, precision="fp16"))
    assert (back.concepts, back.settings, back.base) == (change.concepts, change.settings, change.base)
    assert 0 < back.rank < change.rank and not torch.equal(encode(loaded, PROMPT), encode(shapes[1], PROMPT))
    assert (back.delta() - change.delta()).norm() < 0.04 * change.delta().norm()
    numbers = [next(line for line in text.splitlines() if line.startswith("efficacy")) for text in (report, measured)]
    before, after = (float(line.split()[1].rstrip("%")) for line in numbers)
    assert abs(before - after) < 3 and "not the model" not in measured


def test_an_edit_on_another_model_says_so_and_on_another_kind_is_refused(shapes, edit, save, load):
    import comfy.sd

    name = save(edit(load_clip_l())[1])
    path = cached("clip-l", clip_l)
    other = {key: value + (0.01 if key.endswith(OUT_PROJ) else 0.0) for key, value in load_file(path).items()}
    clip = comfy.sd.load_text_encoder_state_dicts([other], clip_type=comfy.sd.CLIPType.STABLE_DIFFUSION)
    assert load(clip, name)[2].startswith("This is not the model")
    with pytest.raises(ValueError, match="768 x 768; this text encoder's is 128 x 128"):
        load(shapes[1], name)


def test_files_are_numbered_and_never_replaced(shapes, edit, save, load, folders, nodes):
    change = edit(shapes[1])[1]
    first, second = save(change), save(change, name="a/edit")
    assert (first, second) == ("edit_00001.safetensors", "a/edit_00001.safetensors")
    (folders / "models" / "edit_00002.safetensors").write_bytes(b"another's")
    assert save(change) == "edit_00003.safetensors", "a loader would take the other file of the name"
    offered = nodes["DiffQuickFix_LoadEdit"].GET_SCHEMA and nodes["DiffQuickFix_LoadEdit"].define_schema()
    (file,) = (socket for socket in offered.inputs if socket.id == "file")
    assert {first, os.path.join("a", "edit_00001.safetensors")} <= set(file.options)
    for bad in ("", "../x", "a/../../x", "/x"):
        with pytest.raises(ValueError, match="plain file name"):
            save(change, name=bad)
    assert not list(Path(folders).glob("*.safetensors")) and not list(folders.rglob("*.part"))


@pytest.mark.parametrize("name", ["missing.safetensors", "../secret.safetensors", "notes.txt", ""])
def test_only_files_among_the_loras_are_loaded(shapes, load, folders, name):
    (folders / "secret.safetensors").write_bytes(b"x")
    (folders / "models" / "notes.txt").write_bytes(b"x")
    with pytest.raises(ValueError, match="There is no LoRA file"):
        load(shapes[1], name)


def test_foreign_and_damaged_files_are_refused_in_words(shapes, edit, save, load, folders):
    name = save(edit(shapes[1])[1])
    content = (folders / "loras" / name).read_bytes()
    (folders / "loras" / "cut.safetensors").write_bytes(content[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load(shapes[1], "cut.safetensors")
    save_file(load_file(folders / "loras" / name), folders / "loras" / "foreign.safetensors")
    with pytest.raises(ValueError, match="not an edit saved by this pack"):
        load(shapes[1], "foreign.safetensors")


def test_a_file_that_changes_is_loaded_again(shapes, edit, save, nodes, folders):
    node = nodes["DiffQuickFix_LoadEdit"]
    name = save(edit(shapes[1])[1])
    before = node.fingerprint_inputs(file=name, clip=None, strength=1.0)
    os.utime(folders / "loras" / name, (1, 1))
    assert node.fingerprint_inputs(file=name, clip=None, strength=1.0) != before
    assert node.fingerprint_inputs(file=None, clip=None, strength=1.0) == ""


def test_a_checkpoint_file_gives_the_nodes_very_edit(edit):
    """The library on the file and the node on ComfyUI's model of it: the same bits."""
    import comfy.sd

    path = cached("sd15", sd15)
    _, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(path), output_vae=False, output_model=False)
    change = edit(clip)[1]
    encoder = open_text_encoder(path)
    own = compute_edit(encoder.tower, encoder.tokenizer(), [ConceptEdit("van gogh", "painting")], preset("guarded"))
    assert own.base == change.base and own.encoder == change.encoder == "clip_l"
    assert torch.equal(own.up, change.up) and torch.equal(own.down, change.down)


def diffusers_pipeline(state):
    """A Stable Diffusion pipeline around a CLIP-L of real size; diffusers' LoRA loading asks for no more than this."""
    from diff_quickfix.text.vocabulary import clip_tokenizer
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextModel(
        CLIPTextConfig(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            eos_token_id=49407,
            bos_token_id=49406,
            pad_token_id=49407,
            vocab_size=49408,
        )
    ).eval()
    inner = getattr(text, "text_model", text)
    prefix = "text_model."
    inner.load_state_dict({name.removeprefix(prefix): value.float() for name, value in state.items()}, strict=False)
    small = {"block_out_channels": (32,), "norm_num_groups": 8}
    unet = UNet2DConditionModel(
        **small,
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        cross_attention_dim=768,
        attention_head_dim=8,
    )
    scheduler = DDIMScheduler(clip_sample=False, steps_offset=1)
    return StableDiffusionPipeline(
        AutoencoderKL(**small), text, clip_tokenizer(), unet, scheduler, None, None, requires_safety_checker=False
    )


@pytest.mark.newest
def test_diffusers_loads_the_file_and_says_the_same(edit, save, folders):
    clip = load_clip_l()
    edited, change, _ = edit(clip)
    name = save(change)
    pipeline = diffusers_pipeline(load_file(cached("clip-l", clip_l)))

    def states():
        ids = pipeline.tokenizer(PROMPT, padding="max_length", max_length=77, return_tensors="pt").input_ids
        with torch.no_grad():
            return pipeline.text_encoder(ids).last_hidden_state

    before = states()
    torch.testing.assert_close(before, encode(clip, PROMPT), atol=1e-3, rtol=1e-3)
    pipeline.load_lora_weights(folders / "loras", weight_name=name)
    after, wanted = states(), encode(edited, PROMPT)
    effect = (wanted - encode(clip, PROMPT)).norm()
    assert (after - wanted).norm() < 1e-3 * effect
    pipeline.unload_lora_weights()
    torch.testing.assert_close(states(), before, atol=0, rtol=0)


def test_the_metadata_is_plain_for_other_programs(shapes, edit, save, folders):
    name = save(edit(shapes[1])[1])
    with safe_open(folders / "loras" / name, "pt") as file:
        assert all(isinstance(value, str) for value in file.metadata().values())
    assert math.isclose(load_edit(folders / "loras" / name).report.efficacy, edit(shapes[1])[1].report.efficacy)
