"""Text states that the shell reads out of files, beside those that ComfyUI gives the same image models."""

import json
import shutil

import pytest
import torch
from small_encoders import objects
from test_remove_concept import weights_of

PROMPTS = ["", "a house in the style of van gogh", "two dogs"]
pytestmark = pytest.mark.newest


# Of each family, the files beside the image model's: a text encoder's part of ComfyUI's CLIP, and its configuration.
HEADS = {"hidden_size": 16, "num_attention_heads": 2}
FILES = {
    "sd3": {"clip_l": HEADS, "clip_g": HEADS | {"hidden_size": 24}, "t5xxl": {}},
    "flux": {"clip_l": HEADS, "t5xxl": {}},
}
FAMILIES = ("z-image", "qwen-image", "krea2", "pixart", "sd3", "flux", "chroma")


@pytest.fixture(scope="module")
def saved(request, comfyui, tmp_path_factory):
    """A family, and the paths of its image model and text encoders, saved by the names of ComfyUI's own files."""
    from safetensors.torch import save_file

    family, folder = request.param, tmp_path_factory.mktemp(request.param)
    model, clip = objects(family)
    parts = {part: getattr(clip.cond_stage_model, part) for part in FILES.get(family, {})}
    parts = parts or {"text": clip.cond_stage_model}
    for name, module in (("model", model.model.diffusion_model), *parts.items()):
        (folder / name).mkdir()
        save_file({key: value.clone() for key, value in module.state_dict().items()}, folder / name / "m.safetensors")
        (folder / name / "config.json").write_text(json.dumps(FILES.get(family, {}).get(name, {})))
    yield family, [folder / name / "m.safetensors" for name in ("model", *parts)]
    shutil.rmtree(folder)


@pytest.mark.parametrize("saved", FAMILIES, indirect=True)
def test_states_out_of_files_are_comfyuis(saved, comfyui, pack, inference):
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.nodes.host.editing.text_states import open_text_states
    from pack_under_test.quickfix import open_image_model as open_file

    family, (path, *others) = saved
    model, clip = objects(family)
    found = open_file(path, others)
    wanted = open_text_states(clip, open_image_model(model).family, model)
    assert found.family.name == family
    tokenizer = found.tokenizer(comfyui)
    states = found.prompt_states(tokenizer, folder=comfyui)
    rows = [[prompt.ids for prompt in one.tokenize_all(PROMPTS)] for one in (tokenizer, wanted.tokenizer)]
    assert rows[0] == rows[1]
    expected = wanted.reader.states(rows[0])
    for reader in (states, states.remembering()):
        torch.testing.assert_close(reader.states(rows[0]), expected, rtol=1e-4, atol=1e-4)
    towers = states.tower(), wanted.tower
    torch.testing.assert_close(*(tower.scale for tower in towers), rtol=1e-4, atol=0)
    # As keys, with what stands behind the counted tokens.
    (row,) = tokenizer.tokenize_all([PROMPTS[1]])
    torch.testing.assert_close(*(tower.attention_inputs([row.ids], 0) for tower in towers), rtol=1e-3, atol=1e-4)
    assert {door.width for door in found.doors() if door.reads == "text"} == {found.states_width}
    if found.family.pooled:
        torch.testing.assert_close(states.pooled(PROMPTS), wanted.pooled(PROMPTS), rtol=1e-4, atol=1e-4)


# Stable Diffusion 3 takes a minute here: T5 is as wide as in life.
@pytest.mark.parametrize("saved", ["qwen-image", "krea2", "pixart"], indirect=True)
def test_the_stock_loader_takes_the_shells_lora(saved, comfyui, run, inference, folders):
    """It changes the doors and nothing else, each by what the edit of ComfyUI's own node adds to it."""
    from diff_quickfix.cli import main

    import nodes as stock

    family, (path, *others) = saved
    model, clip = objects(family)
    files = [word for other in others for word in ("--text-encoder", str(other))]
    options = ("--tokenizer", str(comfyui), "--out", str(folders / "models" / "fix.safetensors"), "--quiet")
    assert main(["edit", str(path), "--edit", "van gogh -> painting", *files, *options]) == 0
    loaded = stock.LoraLoader().load_lora(model, clip, "fix.safetensors", 1.0, 1.0)[0]
    edited = run("RemoveConcept", model, clip, "van gogh", "painting", "style", 1.0, breadth="none").args[0]
    before, found, wanted = (weights_of(one) for one in (model, loaded, edited))
    changed = {name for name in before if not torch.equal(before[name], found[name])}
    assert changed == {name for name in before if not torch.equal(before[name], wanted[name])} and changed
    for name in changed:
        off = float((found[name] - wanted[name]).norm() / (wanted[name] - before[name]).norm())
        assert off < 1e-2, (name, off)


def test_animas_adapter_is_comfyuis(pack, inference):
    from pack_under_test.quickfix.encoder.fronts.adapter import Adapter

    module = objects("anima")[0].model.diffusion_model.llm_adapter
    ids, states = torch.tensor([[3, 900, 17, 1]]), torch.randn(1, 6, 1024, generator=torch.Generator().manual_seed(2))
    found = Adapter(module.state_dict(), torch.device("cpu"))(states, ids)
    torch.testing.assert_close(found, module(states, ids), rtol=1e-4, atol=1e-4)
