"""The functional tower against transformers' CLIP, and what it refuses."""

from collections.abc import Mapping

import pytest
import torch
from diff_quickfix.quickfix import TextTower, TowerError
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Linear
from transformers import CLIPTextConfig, CLIPTextModel

VOCABULARY, CONTEXT, WIDTH, LAYERS = 100, 12, 32, 3


def clip(activation="quick_gelu", heads=4):
    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        hidden_act=activation,
        num_attention_heads=heads,
        max_position_embeddings=CONTEXT,
        bos_token_id=98,
        eos_token_id=99,
        pad_token_id=99,
    )
    model = CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture(scope="module")
def tower():
    return TextTower.from_module(clip())


def captured(model, ids, layer):
    """What transformers feeds to a layer's out_proj."""
    inner = getattr(model, "text_model", model)
    out_proj, seen = inner.encoder.layers[layer].self_attn.out_proj, []
    hook = out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        final = model(ids).last_hidden_state
    hook.remove()
    return seen[0], final


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_equals_transformers(activation, layer):
    model = clip(activation)
    tower = TextTower.from_module(model)
    assert (tower.activation, tower.heads, tower.num_layers, tower.width) == (activation, 4, LAYERS, WIDTH)
    ids = torch.randint(0, VOCABULARY, (300, CONTEXT), generator=torch.Generator().manual_seed(0))
    inputs, final = captured(model, ids, layer)
    torch.testing.assert_close(tower.attention_inputs(ids, layer), inputs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tower.hidden_states(ids), final, rtol=1e-4, atol=1e-5)


@given(
    start=st.integers(0, CONTEXT - 1),
    size=st.integers(1, CONTEXT),
    layer=st.integers(0, LAYERS - 1),
    seed=st.integers(0, 9),
)
def test_some_positions_are_a_part_of_all(tower, start, size, layer, seed):
    positions = range(start, min(CONTEXT, start + size))
    ids = torch.randint(0, VOCABULARY, (5, CONTEXT), generator=torch.Generator().manual_seed(seed))
    every = tower.attention_inputs(ids, layer)
    torch.testing.assert_close(
        tower.attention_inputs(ids, layer, positions), every[:, start : positions.stop], rtol=1e-4, atol=1e-5
    )
    changed = ids.clone()
    changed[:, positions.stop :] = 0
    torch.testing.assert_close(
        tower.attention_inputs(changed, layer, positions), every[:, start : positions.stop], rtol=1e-4, atol=1e-5
    )


class Forbidden(Mapping):
    """Weights of which those of some parts must not be read."""

    def __init__(self, weights, *parts):
        self.weights, self.parts = weights, parts

    def __getitem__(self, name):
        assert not any(part in name for part in self.parts), f"{name} was read"
        return self.weights[name]

    def __iter__(self):
        return iter(self.weights)

    def __len__(self):
        return len(self.weights)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_stops_early(layer):
    weights = dict(TextTower.from_module(clip()).weights)
    later = [f"layers.{number}." for number in range(layer + 1, LAYERS)]
    tail = [f"layers.{layer}.{part}" for part in ("mlp", "layer_norm2", "self_attn.out_proj")]
    tower = TextTower.from_weights(Forbidden(weights, "final_layer_norm", *later, *tail), heads=4)
    assert tower.attention_inputs([[1, 2, 3]], layer).shape == (1, 3, WIDTH)


def test_states_are_inputs_and_the_stream_after_attention():
    model = clip()
    tower = TextTower.from_module(model)
    ids = torch.randint(0, VOCABULARY, (4, CONTEXT), generator=torch.Generator().manual_seed(1))
    inner, seen = getattr(model, "text_model", model), []
    inner.encoder.layers[1].layer_norm2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        model(ids)
    states = tower.attention_states(ids, 1)
    torch.testing.assert_close(states.inputs, tower.attention_inputs(ids, 1))
    torch.testing.assert_close(states.residual, seen[0], rtol=1e-4, atol=1e-5)


def test_edited_weights_stand_in_for_the_towers_own():
    model = clip()
    tower = TextTower.from_module(model)
    name = tower.out_proj_name(1)
    edited = tower.weight(name) + 0.1
    ids = torch.arange(24).reshape(2, 12)
    before = tower.hidden_states(ids)
    after = tower.hidden_states(ids, {name: edited})
    assert torch.equal(tower.hidden_states(ids), before)
    getattr(model, "text_model", model).get_parameter(name).data.copy_(edited)
    torch.testing.assert_close(after, captured(model, ids, 0)[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after)


def test_half_precision_weights_and_functions_as_weights():
    weights = {name: tensor.half() for name, tensor in TextTower.from_module(clip()).weights.items()}
    ids = torch.arange(12).reshape(1, 12)
    wide = TextTower.from_weights({name: tensor.float() for name, tensor in weights.items()}, heads=4)
    called = TextTower.from_weights(weights.__getitem__, heads=4, num_layers=LAYERS)
    keys = called.attention_inputs(ids, 1)
    assert keys.dtype == torch.float32
    assert torch.equal(keys, wide.attention_inputs(ids, 1))


@pytest.mark.parametrize(
    ("ids", "layer", "positions", "message"),
    [
        ([[1, VOCABULARY]], 0, None, f"Token id {VOCABULARY} is outside of the vocabulary of {VOCABULARY}"),
        ([[-1]], 0, None, "Token id -1"),
        ([[1] * (CONTEXT + 1)], 0, None, "Token ids have shape"),
        ([1, 2], 0, None, "Token ids have shape"),
        (
            [[1]],
            LAYERS,
            None,
            f"no layer {LAYERS}: the image model reads layers 0 to {LAYERS - 1} of this",
        ),
        ([[1]], -1, None, "no layer -1"),
        ([[1, 2]], 0, range(1, 3), "range of step 1"),
        ([[1, 2]], 0, range(0, 2, 2), "range of step 1"),
    ],
)
def test_refuses_bad_requests(ids, layer, positions, message):
    with pytest.raises(TowerError, match=message):
        TextTower.from_module(clip()).attention_inputs(ids, layer, positions)


def test_refuses_bad_weights_by_name():
    weights = dict(TextTower.from_module(clip()).weights)
    name = "encoder.layers.0.self_attn.q_proj.weight"
    for value in (float("nan"), float("inf"), float("-inf")):
        bad = weights[name].clone()
        bad[3, 4] = value
        with pytest.raises(TowerError, match=f"{name} holds NaN or infinity"):
            TextTower.from_weights({**weights, name: bad}, heads=4).attention_inputs([[1]], 0)
    missing = {key: tensor for key, tensor in weights.items() if key != name}
    with pytest.raises(TowerError, match=f"no weight named {name}"):
        TextTower.from_weights(missing, heads=4).attention_inputs([[1]], 0)
    with pytest.raises(TowerError, match=r"encoder\.layers"):
        TextTower.from_weights({"text_model.encoder.layers.0.mlp.fc1.bias": bad}, heads=4)
    with pytest.raises(TowerError, match="Unknown activation"):
        TextTower.from_weights(weights, heads=4, activation="relu")
    with pytest.raises(TowerError, match="Linear is not a CLIP text model"):
        TextTower.from_module(Linear(2, 2))
