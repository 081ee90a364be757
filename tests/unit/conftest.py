"""The unit tier's matrices are tiny: on a busy machine, threads would only wait for each other."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_tower():
    """A CLIP text tower with the real vocabulary, 64 wide, whose biases and norms are not trivial."""
    from diff_quickfix.quickfix import TextTower
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(11)
    config = CLIPTextConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return TextTower.from_module(model)
