"""Concepts removed from diffusers pipelines whose image models read Qwen or T5, in memory and in folders, beside what
diffusers itself computes, loads and saves."""

import copy
import json

import pytest
import torch
from diff_quickfix import open_image_model, remove_concept
from diff_quickfix.families.doors import DoorError
from diff_quickfix.pipelines import PipelineError, apply_edit, open_pipeline
from diff_quickfix.quickfix import WayError, load_edit
from row_pipelines import NAMES, encoded, pipeline
from small_pipelines import stirred

PROMPTS = ["", "a house in the style of Van Gogh, at night", "two dogs"]
VAN_GOGH = ("--edit", "van gogh -> painting", "--quiet")


@pytest.fixture(scope="module")
def pipelines(comfyui):
    made = {}

    def of(name):
        if name not in made:
            made[name] = pipeline(name, comfyui)
        return made[name]

    return of


def weights(pipe):
    return {name: value.clone() for name, value in pipe.transformer.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def given(rows, states):
    """The states that the pipeline gives its transformer, in its order, out of ours."""
    from diff_quickfix.text.rows import tokens_of

    own, beside = tokens_of(rows)
    there = states[: len(own) + len(beside)]
    return torch.cat((there[len(own) :], there[: len(own)])) if beside else there


@pytest.mark.parametrize("name", NAMES)
def test_the_states_are_those_that_the_transformer_is_given(pipelines, name):
    pipe = pipelines(name)
    opened = open_pipeline(pipe)
    assert opened.family.name == name
    rows = [prompt.ids for prompt in opened.tokenizer.tokenize_all(PROMPTS)]
    for reader in (opened.states, opened.states.remembering()):
        found = reader.states(rows)
        for prompt, row, states in zip(PROMPTS, rows, found, strict=True):
            wanted = encoded(pipe, prompt)[0][None]
            with torch.no_grad():
                wanted = opened.family.front(pipe.transformer, wanted)[0]
            ours = given(row, states)
            cut = len(ours) - len(wanted)
            assert cut >= 0 and not ours[:cut].any()
            torch.testing.assert_close(ours[cut:], wanted, rtol=1e-4, atol=1e-4)
    if opened.family.pooled:
        vectors = torch.cat([encoded(pipe, prompt)[1] for prompt in PROMPTS])
        torch.testing.assert_close(opened.states.pooled(PROMPTS), vectors, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_diffusers_loads_the_edit(pipelines, name):
    """Each door gives for a state what it gave for the mapped one; what nobody loads is added."""
    pipe = pipelines(name)
    before = weights(pipe)
    edit = remove_concept(pipe, "van gogh", "painting")
    assert not changed(before, weights(pipe)) and edit.encoder == name
    added = copy.copy(pipe)
    added.transformer = copy.deepcopy(pipe.transformer)
    apply_edit(added, edit)
    after = weights(added)
    doors = {update.door.weight for update in edit.doors}
    assert changed(before, after) == doors and not changed(before, weights(pipe))
    opened = open_pipeline(pipe)
    states = opened.states.states([opened.tokenizer.tokenize(PROMPTS[1]).ids])[0]
    for update in edit.doors:
        key, inputs = update.door.weight, states
        if update.door.kind == "pooled":
            inputs = opened.states.pooled([PROMPTS[1]])
        part = edit.pooled if update.door.kind == "pooled" else edit
        wanted = (inputs + inputs @ part.down.T @ part.up.T) @ before[key].T
        found, old = inputs @ after[key].T, inputs @ before[key].T
        assert float((found - wanted).norm()) < 1e-3 * float((wanted - old).norm()) > 0, key
    if name == "pixart":
        assert not hasattr(pipe, "load_lora_weights")
        with pytest.raises(DoorError, match="diffusers loads no LoRA"):
            edit.lora(naming="diffusers")
        return
    fused = copy.copy(pipe)
    fused.transformer = copy.deepcopy(pipe.transformer)
    fused.load_lora_weights(edit.lora(naming="diffusers"))
    fused.fuse_lora()
    fused.unload_lora_weights()
    loaded = weights(fused)
    assert changed(before, loaded) == doors
    for key in doors:
        torch.testing.assert_close(loaded[key], after[key], rtol=1e-4, atol=1e-5)
    apply_edit(added, edit, -1.0)
    assert all(torch.allclose(weights(added)[key], before[key], atol=1e-5) for key in doors)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_in_shards_is_edited_as_the_pipeline_is(pipelines, name, tmp_path, capsys):
    """The shell reads tokenizers and shards out of the folder, and diffusers loads what it wrote."""
    from diff_quickfix.cli import main

    pipe = pipelines(name)
    folder, fixed, out = tmp_path / "model", tmp_path / "fixed", tmp_path / "fix.safetensors"
    pipe.save_pretrained(folder, max_shard_size="100KB")
    sharded = {path.parent.name for path in folder.rglob("*-of-*.safetensors")}
    assert "transformer" in sharded and sharded & {"text_encoder", "text_encoder_2", "text_encoder_3"}
    naming = "comfyui" if name == "pixart" else "diffusers"
    options = ("--out", str(out), "--naming", naming, "--apply", str(fixed))
    assert main(["edit", str(folder), *VAN_GOGH, *options, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    found, wanted = load_edit(out), remove_concept(pipe, "van gogh", "painting")
    assert found.encoder == name and set(said["tensors"]) == {update.door.weight for update in wanted.doors}
    model = open_image_model(folder)
    tokenizer = model.tokenizer()
    rows = [prompt.ids for prompt in tokenizer.tokenize_all(PROMPTS)]
    opened = open_pipeline(pipe)
    assert rows == [prompt.ids for prompt in opened.tokenizer.tokenize_all(PROMPTS)]
    states = model.prompt_states(tokenizer)
    torch.testing.assert_close(states.states(rows), opened.states.states(rows), rtol=1e-4, atol=1e-4)
    again = type(pipe).from_pretrained(fixed, vae=None)
    before, after = weights(pipe), weights(again)
    doors = {update.door.weight for update in wanted.doors}
    assert changed(before, after) == doors
    for update in wanted.doors:
        factors = wanted.factors(update)
        delta, key = factors.up @ factors.down, update.door.weight
        assert float((after[key] - before[key] - delta).norm()) < 1e-2 * float(delta.norm()), key
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != "transformer":
            assert (fixed / path.relative_to(folder)).read_bytes() == path.read_bytes(), path


class Pipe:
    """The parts of a pipeline, with others in their place."""

    def __init__(self, pipe, **parts):
        names = [f"{kind}{end}" for kind in ("text_encoder", "tokenizer") for end in ("", "_2", "_3")]
        for name in ("transformer", *names):
            setattr(self, name, getattr(pipe, name, None))
        self.__dict__ |= parts


def test_what_cannot_be_edited_is_refused_by_name(pipelines, comfyui):
    z, sd3 = pipelines("z-image"), pipelines("sd3")
    cases = [
        (Pipe(z, transformer=None), PipelineError, "expected a pipeline with unet or transformer"),
        (Pipe(z, text_encoder=None), PipelineError, "Found 0 text encoders"),
        (Pipe(sd3, text_encoder_3=None), PipelineError, "Found 2 text encoders.*expected 3"),
        (Pipe(z, text_encoder=sd3.text_encoder_3), PipelineError, "expected Qwen3"),
        (Pipe(sd3, text_encoder=pipelines("flux").text_encoder), PipelineError, "has no text_projection"),
        (Pipe(z, text_encoder=copy.deepcopy(z.text_encoder).to("meta")), PipelineError, "not in memory"),
        (Pipe(z, transformer=copy.deepcopy(z.transformer).to("meta")), PipelineError, "not in memory"),
        (Pipe(z, transformer=stirred(copy.deepcopy(sd3.vae or torch.nn.Linear(2, 2)), 1)), DoorError, "expected an"),
    ]
    for pipe, error, message in cases:
        with pytest.raises(error, match=message):
            remove_concept(pipe, "van gogh", "painting")
    other = copy.copy(z.tokenizer)
    other.chat_template = "{{ messages[0].content }}"
    with pytest.raises(PipelineError, match="chat template"):
        remove_concept(Pipe(z, tokenizer=other), "van gogh", "painting")
    with pytest.raises(PipelineError, match="reads the layers 0, 1, 1"):
        remove_concept(Pipe(pipelines("krea2"), text_encoder_select_layers=(0, 1, 1)), "van gogh", "painting")
    with pytest.raises(PipelineError, match="clip_skip is 1"):
        remove_concept(sd3, "van gogh", "painting", clip_skip=1)
    with pytest.raises(WayError, match="hold no single state"):
        remove_concept(z, "van gogh", "painting", way="text encoder")
    edit = remove_concept(z, "van gogh", "painting")
    with pytest.raises(PipelineError, match="The edit is one of z-image"):
        apply_edit(sd3, edit)
