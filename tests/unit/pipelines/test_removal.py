"""Concepts removed from diffusers pipelines, beside what diffusers itself computes and loads."""

import copy

import pytest
import torch
from diff_quickfix import remove_concept
from diff_quickfix.families.doors import DoorError
from diff_quickfix.pipelines import PipelineError, open_pipeline
from diff_quickfix.quickfix import ConceptEdit, WayError, load_edit, save_edit
from small_pipelines import G_WIDTH, L_WIDTH, POOLED, sd1, sdxl, unet

PROMPTS = ("", "a house in the style of van gogh", "two dogs, " * 30)


@pytest.fixture(scope="module")
def pipelines(comfyui):
    return {"sdxl": sdxl(), "sd1": sd1(), "sd2": sd1(1024, "!")}


def encoded(pipe, prompts, clip_skip=None):
    """Text states and pooled vectors, by the pipeline's own method."""
    found = pipe.encode_prompt(
        list(prompts),
        device="cpu",
        num_images_per_prompt=1,
        clip_skip=clip_skip,
        **({"do_classifier_free_guidance": False}),
    )
    return found[0], found[2] if len(found) == 4 else None


def weights(pipe):
    return {
        f"{part}.{name}": value.clone()
        for part in ("unet", "text_encoder", "text_encoder_2")
        if getattr(pipe, part, None) is not None
        for name, value in getattr(pipe, part).state_dict().items()
    }


def loaded(pipe, lora):
    """A copy of the pipeline into whose weights diffusers has loaded and fused a LoRA."""
    pipe = copy.deepcopy(pipe)
    pipe.load_lora_weights(lora)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe


@pytest.mark.parametrize(("name", "clip_skip"), [("sdxl", None), ("sdxl", 1), ("sd1", None), ("sd2", None)])
def test_the_states_are_those_of_the_pipeline(pipelines, name, clip_skip):
    pipe = pipelines[name]
    opened = open_pipeline(pipe, clip_skip=clip_skip or 0)
    assert opened.family.name == name
    wanted, vectors = encoded(pipe, PROMPTS, clip_skip)
    rows = [prompt.ids for prompt in opened.tokenizer.tokenize_all(list(PROMPTS))]
    torch.testing.assert_close(opened.states.states(rows), wanted, rtol=1e-4, atol=1e-4)
    # The encoders are causal: what is cut away changes nothing.
    torch.testing.assert_close(opened.states.states([row[:9] for row in rows]), wanted[:, :9], rtol=1e-4, atol=1e-4)
    if vectors is not None:
        torch.testing.assert_close(opened.states.pooled(PROMPTS), vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sd1", "sd2"])
def test_a_clip_skip_leaves_out_layers_and_no_norm(pipelines, name):
    """As pipelines of Stable Diffusion say it: the hidden state of so many layers before the last, then its norm."""
    pipe = pipelines[name]
    opened = open_pipeline(pipe, clip_skip=1)
    rows = torch.tensor([prompt.ids for prompt in opened.tokenizer.tokenize_all(list(PROMPTS))])
    inner = getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    wanted = inner.final_layer_norm(pipe.text_encoder(rows, output_hidden_states=True).hidden_states[-2])
    torch.testing.assert_close(opened.states.states(rows.tolist()), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["sdxl", "sd1", "sd2"])
def test_diffusers_loads_the_edit_and_the_doors_give_the_mapped_states(pipelines, name, tmp_path):
    """Each door of the pipeline with the LoRA gives for a state what it gave for the mapped one."""
    pipe = pipelines[name]
    before = weights(pipe)
    edit = remove_concept(pipe, "van gogh", "painting")
    assert all(torch.equal(value, before[key]) for key, value in weights(pipe).items())
    assert edit.of_states and edit.encoder == name and edit.doors
    save_edit(edit, tmp_path / "fix.safetensors", naming="diffusers")
    again = load_edit(tmp_path / "fix.safetensors")
    states, vectors = encoded(pipe, ["a house in the style of van gogh"])
    after = weights(loaded(pipe, edit.lora(naming="diffusers")))
    from_file = weights(loaded(pipe, str(tmp_path / "fix.safetensors")))
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {f"unet.{update.door.weight}" for update in edit.doors}
    for number, update in enumerate(edit.doors):
        key, old = f"unet.{update.door.weight}", before[f"unet.{update.door.weight}"]
        if update.door.kind == "pooled":
            first = vectors[0]
            moved = first + edit.pooled.up @ (edit.pooled.down @ first)
            inputs = torch.cat((first, torch.zeros(old.shape[1] - POOLED)))
            wanted = torch.cat((moved, torch.zeros(old.shape[1] - POOLED)))
        else:
            inputs, wanted = states[0], edit.applied(states[0])
        found, asked = inputs @ after[key].T, wanted @ old.T
        assert float((found - asked).norm()) < 1e-4 * float((inputs @ old.T - asked).norm()), update.door.name
        torch.testing.assert_close(from_file[key], after[key], rtol=0, atol=1e-6)
        factors = [one.factors(one.doors[number]) for one in (again, edit)]
        torch.testing.assert_close(*(one.up @ one.down for one in factors), rtol=0, atol=1e-6)
    assert any(update.door.kind == "pooled" for update in edit.doors) == (name == "sdxl")


def test_the_edited_unet_paints_as_the_old_one_does_from_mapped_states(pipelines):
    pipe = pipelines["sdxl"]
    edit = remove_concept(pipe, "van gogh", "painting", doors="*attn2.to_k, *attn2.to_v")
    edited = loaded(pipe, edit.lora(naming="diffusers"))
    states, vector = encoded(pipe, ["a painting by van gogh"])
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    extra = {"text_embeds": vector, "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]])}

    def painted(unet, states):
        return unet(latent, 500, states, added_cond_kwargs=extra).sample

    before, wanted = painted(pipe.unet, states), painted(pipe.unet, edit.applied(states))
    assert float((painted(edited.unet, states) - wanted).norm()) < 1e-3 * float((wanted - before).norm())


@pytest.mark.parametrize(("name", "kind"), [("sd1", "style"), ("sd1", "object"), ("sdxl", "style")])
def test_a_list_of_names_guards_the_edit(pipelines, name, kind):
    """A name of the list, which neither the concept nor the built-in prompts hold, moves less; the report says so."""
    pipe, told = pipelines[name], []
    plain = remove_concept(pipe, "van gogh", "painting", kind=kind)
    guarded = remove_concept(
        pipe, "van gogh", "painting", kind=kind, breadth="short", progress=lambda *at: told.append(at)
    )
    assert told[0][0] == 0 < told[-1][0] == told[-1][1]
    assert guarded.settings.breadth == "short-1" and "short-1" in guarded.report.text()
    opened = open_pipeline(pipe)
    reader = opened.states.tower() if plain.of_states else opened.text_encoder
    prompt = opened.tokenizer.tokenize("a teapot")
    keys = reader.attention_inputs([prompt.ids], 0, range(prompt.start, prompt.eos + 1))[0]
    moved = [float((keys @ edit.down.T @ edit.up.T).norm()) for edit in (plain, guarded)]
    assert moved[1] < 0.8 * moved[0]
    assert remove_concept(pipe, "van gogh", "painting", kind=kind, breadth="auto").settings == guarded.settings
    with pytest.raises(ValueError, match="no list of names 'wide'; expected one of auto, none, short, broad"):
        remove_concept(pipe, "van gogh", "painting", kind=kind, breadth="wide")


@pytest.mark.parametrize("name", ["sd1", "sd2"])
@pytest.mark.parametrize("naming", ["diffusers", "kohya"])
def test_an_edit_of_the_text_encoder_loads_too(pipelines, name, naming):
    pipe = pipelines[name]
    edit = remove_concept(pipe, "snoopy", "dog", kind="object")
    assert not edit.of_states
    before, after = weights(pipe), weights(loaded(pipe, edit.lora(naming=naming)))
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert [key.replace("text_model.", "") for key in changed] == [f"text_encoder.{edit.weight_name}"]
    torch.testing.assert_close(after[changed[0]] - before[changed[0]], edit.delta(), rtol=1e-3, atol=1e-6)


def test_several_concepts_and_chosen_doors(pipelines):
    concepts = [ConceptEdit("van gogh", "painting"), ConceptEdit("snoopy", "dog", "object")]
    edit = remove_concept(pipelines["sdxl"], concepts, doors="mid_block.*to_v", preserve=["a cup of tea"])
    assert [update.door.name for update in edit.doors] == ["mid_block.attentions.0.transformer_blocks.0.attn2.to_v"]
    assert edit.concepts == tuple(concepts) and "a cup of tea" in edit.settings.preserve


class Pipe:
    """Some parts of a pipeline, with others in their place."""

    def __init__(self, pipe, **parts):
        for name in ("unet", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"):
            setattr(self, name, getattr(pipe, name, None))
        self.__dict__ |= parts


def test_what_cannot_be_edited_is_refused_by_name(pipelines):
    whole = pipelines["sdxl"]
    cases = [
        (Pipe(whole, unet=None, prior=whole.unet), PipelineError, "Found Pipe with prior"),
        (Pipe(whole, text_encoder=None), PipelineError, "Found 1 text encoders"),
        (Pipe(whole, text_encoder_2=whole.text_encoder), PipelineError, "has no text_projection"),
        (Pipe(whole, unet=whole.vae), DoorError, "expected an image model of"),
        (Pipe(whole, unet=copy.deepcopy(whole.unet).to("meta")), PipelineError, "not in memory"),
        (
            Pipe(
                whole,
                unet=unet(
                    1,
                    cross_attention_dim=L_WIDTH + G_WIDTH + 8,
                    addition_embed_type="text_time",
                    addition_time_embed_dim=256,
                    projection_class_embeddings_input_dim=POOLED + 1536,
                ),
            ),
            DoorError,
            "72",
        ),
    ]
    for pipe, error, message in cases:
        with pytest.raises(error, match=message):
            remove_concept(pipe, "van gogh", "painting")
    with pytest.raises(WayError, match="hold no single state"):
        remove_concept(whole, "van gogh", "painting", way="text encoder")
    with pytest.raises(PipelineError, match="clip_skip is 9"):
        remove_concept(whole, "van gogh", "painting", clip_skip=9)
    edited = copy.deepcopy(pipelines["sd1"])
    edited.load_lora_weights(remove_concept(edited, "van gogh", "painting").lora(naming="diffusers"))
    with pytest.raises(PipelineError, match=r"pipe.fuse_lora\(\)"):
        remove_concept(edited, "monet", "painting")
