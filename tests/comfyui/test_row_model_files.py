"""Text states that the shell reads out of files, beside those that ComfyUI gives the same image models."""

import pytest
import torch
from small_encoders import objects

PROMPTS = ["", "a house in the style of van gogh", "two dogs"]
pytestmark = pytest.mark.newest


@pytest.mark.parametrize("family", ["z-image", "flux", "chroma"])
def test_states_out_of_files_are_comfyuis(family, tmp_path, comfyui, pack, inference):
    """Saved by the names that ComfyUI's own files have."""
    from pack_under_test.nodes.host.editing.image_model import open_image_model
    from pack_under_test.nodes.host.editing.text_states import open_text_states
    from pack_under_test.quickfix import open_image_model as open_file
    from safetensors.torch import save_file

    model, clip = objects(family)
    for name, module in (("model", model.model.diffusion_model), ("text", clip.cond_stage_model)):
        save_file({key: value.clone() for key, value in module.state_dict().items()}, tmp_path / f"{name}.safetensors")
    (tmp_path / "config.json").write_text('{"hidden_size": 16, "num_attention_heads": 2}')
    found = open_file(tmp_path / "model.safetensors", [tmp_path / "text.safetensors"])
    wanted = open_text_states(clip, open_image_model(model).family, model)
    assert found.family.name == family
    tokenizer = found.tokenizer(comfyui)
    states = found.prompt_states(tokenizer, folder=comfyui)
    rows = [[prompt.ids for prompt in one.tokenize_all(PROMPTS)] for one in (tokenizer, wanted.tokenizer)]
    assert rows[0] == rows[1]
    torch.testing.assert_close(states.states(rows[0]), wanted.reader.states(rows[0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(states.tower().scale, wanted.tower.scale, rtol=1e-4, atol=0)
    if family == "flux":
        torch.testing.assert_close(states.pooled(PROMPTS), wanted.pooled(PROMPTS), rtol=1e-4, atol=1e-4)


def test_animas_adapter_is_comfyuis(pack, inference):
    from pack_under_test.quickfix.files.adapter import Adapter

    module = objects("anima")[0].model.diffusion_model.llm_adapter
    ids, states = torch.tensor([[3, 900, 17, 1]]), torch.randn(1, 6, 1024, generator=torch.Generator().manual_seed(2))
    found = Adapter(module.state_dict(), torch.device("cpu"))(states, ids)
    torch.testing.assert_close(found, module(states, ids), rtol=1e-4, atol=1e-4)
