"""Text states of Qwen3 and T5 out of model files, beside transformers' own models and tokenizers."""

import pytest
import row_models
import torch
from diff_quickfix.families.doors import DoorError
from diff_quickfix.quickfix import ModelFileError, open_image_model
from diff_quickfix.text.other_tokenizers import TokenizerError, find_tokenizer
from diff_quickfix.text.prompts import PromptError
from safetensors.torch import save_file
from small_pipelines import tokenizer

PROMPTS = ["", "van gogh", "a painting by Van Gogh, at night", "two dogs"]
TEXTS = [*PROMPTS, "r2d2's 2024!\n\n x", "\u30b4\u30c3\u30db caf\u00e9", "<|im_start|>user\nx<|im_end|>\n", "  lead"]
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def own(comfyui):
    """transformers' tokenizers, of ComfyUI's folders."""
    from transformers import Qwen2Tokenizer, T5TokenizerFast

    home = comfyui / "comfy" / "text_encoders"
    return Qwen2Tokenizer.from_pretrained(home / "qwen25_tokenizer"), T5TokenizerFast.from_pretrained(
        home / "t5_tokenizer"
    )


@pytest.fixture(scope="module")
def qwen():
    return row_models.qwen()


@pytest.fixture(scope="module")
def t5():
    return row_models.t5()


def test_tokens_are_those_of_transformers(own, comfyui):
    for kind, theirs in zip(("qwen", "t5"), own, strict=True):
        ours = find_tokenizer(kind, comfyui)
        assert [ours(text) for text in TEXTS] == [list(theirs(text)["input_ids"]) for text in TEXTS]


def test_a_folder_of_another_tokenizer_is_passed_over(tmp_path, comfyui):
    with pytest.raises(TokenizerError, match="--tokenizer FOLDER"):
        find_tokenizer("qwen", tmp_path, comfyui / "comfy" / "sd1_tokenizer", comfyui / "comfy" / "text_encoders")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match="cannot be read"):
        find_tokenizer("qwen", tmp_path)


def opened(tmp_path, name, encoder, prefix=""):
    """A file of an image model, its text encoder in a file beside it."""
    save_file(row_models.tensors(name), tmp_path / "model.safetensors")
    save_file(row_models.named(encoder, prefix), tmp_path / "text.safetensors")
    return open_image_model(tmp_path / "model.safetensors", [tmp_path / "text.safetensors"])


def test_z_images_states_are_qwens_normed(tmp_path, comfyui, own, qwen):
    """Of the last layer but one, within the chat template, behind the model's own norm; cut short or whole."""
    model = opened(tmp_path, "z-image", qwen, "text_encoders.qwen3_4b.transformer.model.")
    assert model.family.name == "z-image" and [door.name for door in model.doors()] == ["cap_embedder.1"]
    rows = model.tokenizer(comfyui)
    prompts = rows.tokenize_all(PROMPTS)
    weight = row_models.tensors("z-image")["cap_embedder.0.weight"]
    for reader in (model.prompt_states(rows), model.prompt_states(rows).remembering()):
        found = reader.states([prompt.ids for prompt in prompts])
        short = reader.states([prompt.ids[:5] for prompt in prompts])
        for text, states, cut in zip(PROMPTS, found, short, strict=True):
            ids = own[0](CHAT.replace("{}", text))["input_ids"]
            with torch.no_grad():
                hidden = qwen(torch.tensor([ids]), output_hidden_states=True).hidden_states[-2][0]
            wanted = hidden * (hidden.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
            torch.testing.assert_close(states[: len(ids)], wanted, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(cut, wanted[:5], rtol=1e-4, atol=1e-4)
            assert not states[len(ids) :].any()


@pytest.mark.parametrize(("name", "least"), [("flux", 256), ("chroma", 1)])
def test_states_of_t5_are_those_of_transformers(tmp_path, comfyui, own, t5, name, least):
    """Flux.1 with 256 tokens, its padding attended to."""
    model = opened(tmp_path, name, t5)
    assert model.family.name == name
    rows = model.tokenizer(comfyui)
    found = model.prompt_states(rows).states([prompt.ids for prompt in rows.tokenize_all(PROMPTS)])
    for text, states in zip(PROMPTS, found, strict=True):
        ids = own[1](text)["input_ids"]
        ids += [0] * (least - len(ids))
        with torch.no_grad():
            wanted = t5(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids))).last_hidden_state[0]
        torch.testing.assert_close(states[: len(ids)], wanted, rtol=1e-4, atol=1e-4)
        assert not states[len(ids) :].any()


def test_fluxs_pooled_vector_is_clips_end_state(tmp_path, comfyui, t5):
    clip = row_models.clip()
    save_file(row_models.tensors("flux"), tmp_path / "model.safetensors")
    save_file(row_models.named(t5), tmp_path / "text.safetensors")
    save_file(row_models.named(clip, "clip_l.transformer."), tmp_path / "clip.safetensors")
    files = [tmp_path / "clip.safetensors", tmp_path / "text.safetensors"]
    (tmp_path / "config.json").write_text('{"hidden_size": 16, "num_attention_heads": 4}')
    model = open_image_model(tmp_path / "model.safetensors", files)
    states = model.prompt_states(model.tokenizer(comfyui))
    ids = tokenizer()(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        wanted = clip(ids).pooler_output
    torch.testing.assert_close(states.pooled(PROMPTS), wanted, rtol=1e-4, atol=1e-4)


def test_what_is_missing_is_named(tmp_path, qwen, t5):
    save_file(row_models.tensors("flux"), tmp_path / "model.safetensors")
    save_file(row_models.named(t5), tmp_path / "t5.safetensors")
    save_file(row_models.named(qwen, "model."), tmp_path / "qwen.safetensors")
    with pytest.raises(ModelFileError, match=r"no T5 text encoder in model\.safetensors.*--text-encoder FILE"):
        open_image_model(tmp_path / "model.safetensors")
    with pytest.raises(ModelFileError, match="no T5 text encoder"):
        open_image_model(tmp_path / "model.safetensors", [tmp_path / "qwen.safetensors"])
    model = open_image_model(tmp_path / "model.safetensors", [tmp_path / "t5.safetensors"])
    with pytest.raises(ModelFileError, match="pooled vector of CLIP-L"):
        model.doors()
    assert [door.name for door in model.doors("txt_in")] == ["txt_in"]
    wide = row_models.tensors("flux") | {"txt_in.weight": torch.zeros(64, 40)}
    save_file(wide, tmp_path / "wide.safetensors")
    with pytest.raises(DoorError, match="40 wide, the text encoders give 32"):
        open_image_model(tmp_path / "wide.safetensors", [tmp_path / "t5.safetensors"]).doors("txt_in")


def test_stable_diffusion_3_wants_all_three_text_encoders(tmp_path, t5):
    shapes = {"context_embedder.weight": (64, 32), "joint_blocks.0.context_block.attn.qkv.weight": (192, 64)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "sd3.safetensors")
    save_file(row_models.named(t5), tmp_path / "t5.safetensors")
    save_file(row_models.named(row_models.clip(), "clip_l.transformer."), tmp_path / "clip.safetensors")
    (tmp_path / "config.json").write_text('{"hidden_size": 16, "num_attention_heads": 4}')
    files = [tmp_path / "t5.safetensors", tmp_path / "clip.safetensors"]
    with pytest.raises(ModelFileError, match="no T5 text encoder"):
        open_image_model(tmp_path / "sd3.safetensors", files[1:])
    with pytest.raises(ModelFileError, match="reads CLIP-L and CLIP-G beside T5; found one 16 wide"):
        open_image_model(tmp_path / "sd3.safetensors", files)
    with pytest.raises(ModelFileError, match=r"Found 3 CLIP text encoders.*expected 2"):
        open_image_model(tmp_path / "sd3.safetensors", [files[0], *files[1:] * 3])


def test_a_text_encoder_of_other_layers_and_a_template_of_its_own_are_refused(tmp_path, comfyui, qwen):
    shapes = {"txtmlp.1.weight": (64, 32), "txtmlp.0.scale": (32,), "txtfusion.projector.weight": (1, 2)}
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "krea2.safetensors")
    save_file(row_models.named(qwen, "model."), tmp_path / "text.safetensors")
    model = open_image_model(tmp_path / "krea2.safetensors", [tmp_path / "text.safetensors"])
    with pytest.raises(DoorError, match="reads 2 layers of its text encoder; this one has 3"):
        model.doors()
    with pytest.raises(PromptError, match="a template of its own"):
        model.tokenizer(comfyui).tokenize_all(["<|im_start|>user\nx"])
