"""Image models in files and folders, read beside transformers' own models and diffusers' own folders."""

import pytest
import torch
from diff_quickfix.families.doors import DoorError
from diff_quickfix.quickfix import (
    DOORS,
    ConceptEdit,
    ModelFileError,
    PromptStates,
    TensorFileError,
    edit_doors,
    open_image_model,
)
from diff_quickfix.quickfix.encoder.prompt_states import Reading, Stream
from diff_quickfix.text.prompts import PromptTokenizer
from model_files import laid_out, oracle, tower_weights, used_tokens, write
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

PROMPTS = ("", "a painting by van gogh", "two dogs, " * 30)
LAYERS, VECTOR = 2, 48


def parameters_of_an_sdxl(context=2048):
    """Names and shapes by which a UNet is SDXL's, and one cross-attention."""
    block = "output_blocks.0.1.transformer_blocks.0.attn2"
    return {
        "input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{block}.to_k.weight": (8, context),
        f"{block}.to_v.weight": (8, context),
        "label_emb.0.0.weight": (8, VECTOR + 6 * 256),
    }


def random(shapes, prefix, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return {prefix + name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def transformers_model(weights, width, activation, projection):
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=width // 64,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
        projection_dim=VECTOR,
    )
    model = CLIPTextModelWithProjection(config).eval()
    missing = model.text_model.load_state_dict(weights, strict=False).missing_keys
    assert all("position_ids" in name for name in missing)
    model.text_projection.weight.data.copy_(projection)
    return model


@pytest.fixture(scope="module")
def towers(tokenizer):
    tokens = used_tokens(tokenizer, *PROMPTS, "two dogs,")
    return {width: tower_weights(width, LAYERS, tokens, seed=width) for width in (768, 1280)}, tokens


@pytest.mark.parametrize("form", ["openclip", "transformers"])
def test_sdxls_states_are_those_of_transformers(towers, tokenizer, tmp_path, form):
    """The last hidden states but one, side by side, L padded with its end token and G with 0; the projected end."""
    weights, tokens = towers
    projection = 0.05 * torch.randn(VECTOR, 1280, generator=torch.Generator().manual_seed(9))
    second = laid_out(weights[1280], "sdxl, second")
    second["conditioner.embedders.1.model.text_projection"] = projection.T.contiguous()
    if form == "transformers":
        second = {f"conditioner.embedders.1.transformer.text_model.{key}": one for key, one in weights[1280].items()}
        second["conditioner.embedders.1.transformer.text_projection.weight"] = projection
    tensors = laid_out(weights[768], "sdxl, first") | second | random(parameters_of_an_sdxl(), "model.diffusion_model.")
    model = open_image_model(write(tmp_path / "sdxl.safetensors", tensors, tokens=tokens))
    assert model.family.name == "sdxl"
    prompts = model.tokenizer().tokenize_all(list(PROMPTS))
    ids = torch.tensor([prompt.ids for prompt in prompts])
    places = torch.arange(77) > torch.tensor([prompt.eos for prompt in prompts])[:, None]
    first = transformers_model(weights[768], 768, "quick_gelu", torch.zeros(VECTOR, 768))
    last = transformers_model(weights[1280], 1280, "gelu", projection)
    with torch.no_grad():
        left = first(ids, output_hidden_states=True).hidden_states[-2]
        # What stands behind an end token does not reach it, so that the pooled vector knows no padding.
        right = last(ids.masked_fill(places, 0), output_hidden_states=True)
    states = model.prompt_states(model.tokenizer())
    wanted = torch.cat((left, right.hidden_states[-2]), dim=-1)
    torch.testing.assert_close(states.states(ids.tolist()), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states.states(ids[:, :5].tolist()), wanted[:, :5], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states.pooled(PROMPTS), right.text_embeds, rtol=1e-4, atol=1e-4)


def states_of(weights, tokenizer, unread=0, normed=True):
    return PromptStates((Stream(oracle(weights, 4), 49407, Reading("clip_l", unread, normed)),), tokenizer, "sd1")


def test_a_tower_of_states_asks_for_no_more_than_it_needs(tokenizer):
    weights = tower_weights(32, LAYERS, used_tokens(tokenizer, "van gogh"))
    states = states_of(weights, tokenizer)
    asked = []

    class Counted(PromptStates):
        def states(self, rows):
            asked.append(len(rows[0]))
            return super().states(rows)

    tower = Counted(states.streams, tokenizer, "sd1").tower()
    asked.clear()
    ids = [prompt.ids for prompt in tokenizer.tokenize_all(["van gogh", "a painting by van gogh"])]
    found = tower.attention_inputs(ids, 0, range(2, 5))
    assert asked == [5]
    whole = states.states(ids) * tower.scale
    torch.testing.assert_close(found, whole[:, 2:5], rtol=1e-4, atol=1e-5)


def test_what_lacks_something_is_refused_by_name(towers, tmp_path):
    weights, tokens = towers
    first = laid_out(weights[768], "sdxl, first")

    def written(tensors, holes=None):
        return write(tmp_path / "m.safetensors", tensors, holes, tokens)

    unet = random(parameters_of_an_sdxl(), "model.diffusion_model.")
    second = laid_out(weights[1280], "sdxl, second")
    with pytest.raises(ModelFileError, match="holds no image model"):
        open_image_model(written(first))
    with pytest.raises(ModelFileError, match=r"holds 1 CLIP text encoders \(one 768 wide\); expected 2"):
        open_image_model(written(first | unet))
    strange = {"model.diffusion_model.blocks.0.weight": torch.zeros(4, 4)}
    with pytest.raises(DoorError, match="expected an image model of"):
        open_image_model(written(first | second | strange))
    model = open_image_model(written(first | second | unet))
    with pytest.raises(ModelFileError, match=r"lacks conditioner\.embedders\.1\.model\.text_projection"):
        model.prompt_states(model.tokenizer()).pooled([""])
    wide = random(parameters_of_an_sdxl(2112), "model.diffusion_model.")
    with pytest.raises(DoorError, match="reads text states 2112 wide, the text encoders give 2048"):
        open_image_model(written(first | second | wide)).doors()
    name = "model.diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.to_v.weight"
    quantized = {key: value for key, value in unet.items() if key != name}
    with pytest.raises(TensorFileError, match="is of type F8_E4M3: quantized"):
        open_image_model(written(first | second | quantized, {name: ("F8_E4M3", (8, 2048))})).doors()


def test_an_edit_of_one_tree_is_one_of_the_other(tokenizer, tmp_path, comfyui):
    """A door is the same whether a checkpoint or a diffusers folder calls it."""
    from small_pipelines import sd1

    pipe = sd1()
    pipe.save_pretrained(tmp_path / "model")
    model = open_image_model(tmp_path / "model")
    prompts = PromptTokenizer(pipe.tokenizer, pad_token=49407)
    states = model.prompt_states(prompts)
    rows = [prompt.ids for prompt in prompts.tokenize_all(list(PROMPTS))]
    wanted = pipe.text_encoder(torch.tensor(rows)).last_hidden_state
    torch.testing.assert_close(states.states(rows), wanted, rtol=1e-4, atol=1e-4)
    edit = edit_doors(states.tower(), prompts, [ConceptEdit("van gogh", "painting")], DOORS, model.doors(), model.read)
    for name, delta in model.deltas(edit, 0.5).items():
        weight = dict(pipe.unet.named_parameters())[name]
        torch.testing.assert_close(delta, 0.5 * weight @ (edit.up @ edit.down), rtol=1e-3, atol=1e-6)
    assert set(model.deltas(edit)) == {f"{door.diffusers}.weight" for door in model.doors()}
