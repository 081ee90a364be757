"""The stacks of text encoders by the shape of their modules, and the names of their sites."""

import pytest
import torch
from diff_quickfix.families.sites import SiteError, windows
from diff_quickfix.families.text_stacks import encoder_names, output_sites, text_stack
from diff_quickfix.tracing.runs.cases import Case, Restoration, Share, encode_rows
from diff_quickfix.tracing.runs.corruption import gaussian
from diff_quickfix.tracing.runs.interventions import InterventionError
from diff_quickfix.tracing.runs.plan import Plan, jobs_of
from tiny_models import make_encoder
from torch import nn
from transformers import Qwen2Config, Qwen2Model, T5Config, T5EncoderModel


def small_t5():
    config = T5Config(vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=3, num_heads=4, is_gated_act=True)
    return T5EncoderModel(config).eval().requires_grad_(False)


def small_qwen():
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return Qwen2Model(config).eval().requires_grad_(False)


def test_each_shape_has_its_layers_in_running_order():
    t5, qwen, clip = small_t5(), small_qwen(), make_encoder()
    blocks = t5.encoder.block
    for model, shape, causal, count in ((t5, "t5", False, 3), (qwen, "decoder", True, 2), (clip, "clip", True, 4)):
        stack = text_stack(model)
        assert (stack.shape, stack.causal, len(stack.layers)) == (shape, causal, count)
    first, *_, last = text_stack(t5).sites("t5")
    assert (first.name, last.name) == ("text.t5.0.self_attn", "text.t5.2.hidden")
    assert first.module is blocks[0].layer[0].SelfAttention and last.module is blocks[2]
    assert text_stack(t5).layers[1]["mlp"] is blocks[1].layer[1].DenseReluDense
    assert [site.name for site in text_stack(clip).sites()][:3] == ["text.0.self_attn", "text.0.mlp", "text.0.hidden"]
    assert text_stack(qwen).sites("qwen")[-1].module is qwen.layers[1]


def test_a_vision_tower_beside_a_language_model_is_not_looked_at():
    both = nn.Module()
    both.visual, both.model = make_encoder(), small_qwen()
    assert text_stack(both).shape == "decoder"


def test_what_cannot_be_traced_is_refused():
    two = nn.Module()
    two.one, two.other = make_encoder(), make_encoder()
    with pytest.raises(SiteError, match="Found 2 stacks"):
        text_stack(two)
    with pytest.raises(SiteError, match="no stack of transformer layers"):
        text_stack(nn.Linear(2, 2))
    rereading = small_qwen()
    rereading.embed_tokens_per_layer = nn.Embedding(3, 3)
    with pytest.raises(SiteError, match="reads the tokens again in every layer"):
        text_stack(rereading)


def test_names_of_encoders_tell_them_apart():
    assert encoder_names(["clip_l", "clip_g", "t5xxl"]) == ("l", "g", "t5")
    assert encoder_names(["umt5xxl"]) == ("umt5",) and encoder_names(["byt5_small", "qwen25_7b"]) == ("byt5", "qwen")
    assert encoder_names(["qwen3_06b", "qwen3_4b", "other"]) == ("qwen3_06b", "qwen3_4b", "other")


def test_sites_of_two_encoders_are_neither_neighbours_nor_downstream():
    left, right = (text_stack(make_encoder()).sites(name) for name in "lg")
    groups = windows([*left, *right], 2)
    assert all(len({site.encoder for site in group}) == 1 for group in groups) and len(groups) == 2 * 3 * 3
    (place,) = (number for number, group in enumerate(groups) if group[0].name == "text.l.2.mlp")
    plan = Plan("text", groups, (*left, *right), ("all",), (0,), sever="hidden")
    assert plan.severed(place) == ("text.l.3.hidden",)


def test_empty_cells_are_no_jobs_and_no_controls():
    sites = text_stack(make_encoder()).sites("l")[:2]
    plan = Plan("text", windows(sites, 1), sites, ("a", "b"), (0,), controls=40, empty=frozenset({(0, 1), (1, 0)}))
    cells = {(job.group, job.column) for job in jobs_of(plan) if job.group is not None}
    assert cells == {(0, 0), (1, 1)}


class Encoder(nn.Module):
    """Two taps of what it is given, and their mean as a vector."""

    def forward(self, embeds):
        return torch.stack([embeds + 1, embeds * 2], dim=1), embeds.mean(1)


def test_taps_and_the_pooled_vector_are_restored_by_themselves():
    encoder = Encoder()
    sites = {site.name: site for site in output_sites(encoder, "qwen", (9, 18), pooled=True)}
    assert list(sites) == ["text.qwen.9.tap", "text.qwen.18.tap", "text.qwen.pooled"]
    plain = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    corruption = gaussian(plain[1:2], (1,), std=1.0)
    share = Share("qwen", corruption, encoder)

    def encode(rows):
        taps, pooled = encoder(embeds=plain.repeat(rows, 1, 1))
        return torch.cat([taps.flatten(1), pooled], dim=1)

    case = Case("", "", (share,), encode)
    rows = [Restoration(None), Restoration(0)]
    rows += [Restoration(0, (name,), {"qwen": (1,)}) for name in sites]
    clean, hidden, first, second, pooled = encode_rows(case, sites, rows)
    size = plain.numel()
    parts = {"first": slice(0, size), "second": slice(size, 2 * size), "pooled": slice(2 * size, None)}
    for own, row in (("first", first), ("second", second), ("pooled", pooled)):
        for name, part in parts.items():
            assert torch.equal(row[part], (clean if name == own else hidden)[part])
    assert not torch.equal(clean[parts["pooled"]], hidden[parts["pooled"]])
    other = {"text.l.0.mlp": text_stack(make_encoder()).sites("l")[1]}
    with pytest.raises(InterventionError, match=r"text\.l\.0\.mlp is in a text encoder that is not corrupted"):
        encode_rows(case, other, [Restoration(0, ("text.l.0.mlp",), {"l": (1,)})])
