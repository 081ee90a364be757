"""Heads of attentions as sites: there where they are asked for, and restored as plain hooks restore them."""

import pytest
import torch
from diff_quickfix.families.heads import kind_of, with_heads
from diff_quickfix.families.sites import SiteError, group_name, select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.results.trace import TraceError
from diff_quickfix.tracing.runs.attribution import attribute
from diff_quickfix.tracing.runs.cases import Restoration, encode_rows
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.scores.latent import latent_distance
from tiny_models import LAST, LAYERS, SUBJECT, WIDTH, hooks_of, layers_of, make_case, make_encoder, make_unet, states
from tiny_sweeps import run_unet, text_plan, unet_plan

HEADS = 4


@pytest.fixture
def encoder():
    return make_encoder()


def test_they_are_sites_where_patterns_ask_for_them(encoder):
    plain = text_sites(encoder)
    for names in (None, "*", "text.0.*", "text.[01].self_attn", "text.*.h*", "text.h.0.mlp"):
        assert with_heads(plain, names) == plain
    asked = with_heads(plain, "text.0.mlp, text.*.self_attn.h*")
    heads = [site.name for site in asked if site.kind == "head"]
    assert heads == [f"text.{layer}.self_attn.h{head}" for layer in range(LAYERS) for head in range(HEADS)]
    assert [site for site in asked if site.kind != "head"] == list(plain)
    assert [site.name for site in select(asked, names="text.2.self_attn.h[13]")] == [
        f"text.2.self_attn.h{head}" for head in (1, 3)
    ]
    assert kind_of("text.0.self_attn.h12") == "head" and kind_of("text.0.self_attn") == "self_attn"
    assert group_name(windows(select(asked, names="*attn.h*"), 2)[0]) == "text.0.self_attn.h0..0.self_attn.h1.head"
    with pytest.raises(SiteError, match="No site fits"):
        select(plain, names="*attn.h*")


def put_back(model, case, heads, positions):
    """Oracle: hooks of this file on the output map of layer 1: what it reads is recorded clean, and put in."""
    module, size, kept = layers_of(model)[1].self_attn.out_proj, WIDTH // HEADS, []
    with module.register_forward_pre_hook(lambda module, args: kept.append(args[0].clone())):
        states(model, case, Restoration(None))
    clean = kept[0][-1]

    def put_in(module, args):
        mixed = args[0].clone()
        for head in heads:
            columns = slice(head * size, (head + 1) * size)
            mixed[-1, positions, columns] = clean[positions, columns]
        return (mixed,)

    with module.register_forward_pre_hook(put_in):
        return states(model, case, Restoration(0))


@pytest.mark.parametrize("heads", [(0,), (3,), (1, 2), (0, 1, 2, 3)])
def test_a_head_put_back_is_what_plain_hooks_put_back(encoder, heads):
    case, positions = make_case(encoder), [*SUBJECT, LAST]
    sites = {site.name: site for site in with_heads(text_sites(encoder), "*attn.h*")}
    names = tuple(f"text.1.self_attn.h{head}" for head in heads)
    found = encode_rows(case, sites, [Restoration(0, names, tuple(positions))])
    torch.testing.assert_close(found, put_back(encoder, case, heads, positions), atol=1e-5, rtol=1e-5)
    if len(heads) == HEADS:
        whole = encode_rows(case, sites, [Restoration(0, ("text.1.self_attn",), tuple(positions))])
        torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)
    else:
        assert not torch.allclose(found, states(encoder, case, Restoration(0)), atol=1e-4)
    assert hooks_of(encoder) == 0


@pytest.mark.parametrize("head", range(HEADS))
def test_knowledge_planted_in_one_head_is_traced_to_it(encoder, head):
    size = WIDTH // HEADS
    for number, block in enumerate(layers_of(encoder)):
        block.mlp.fc2.weight.zero_()
        kept = block.self_attn.out_proj.weight[:, head * size : (head + 1) * size].clone()
        block.self_attn.out_proj.weight.zero_()
        if number == 1:
            block.self_attn.out_proj.weight[:, head * size : (head + 1) * size] = kept
    sites = with_heads(text_sites(encoder), "*attn.h*")
    groups = windows(select(sites, names="*attn.h*"), 1)
    plan = text_plan(encoder, sites=sites, groups=groups, columns=("last",), controls=0)
    trace = sweep(
        [make_case(encoder, columns=[(LAST,)])],
        plan,
        lambda rows, seed, patches: rows[:, LAST],
        latent_distance,
        rows=9,
        score_name="d",
    ).trace
    effects = trace.average_indirect_effect()[:, 0]
    assert trace.sites[int(effects.argmax())] == f"text.1.self_attn.h{head}"
    assert float(effects.max()) == pytest.approx(float(trace.total_effects().mean()), rel=1e-4)
    assert sorted(effects.abs())[-2] < 1e-5


def test_all_heads_of_a_cross_attention_are_the_attention():
    unet = make_unet()
    sites = with_heads(unet_sites(unet), "unet.mid.*attn.h*")
    whole = select(sites, names="unet.down.0.a0.cross_attn")
    heads = select(sites, names="unet.down.0.a0.cross_attn.h*")
    assert len(heads) == 4
    import tiny_sweeps

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_sweeps, "unet_sites", lambda model: sites)
        plan = unet_plan(unet, None, groups=(whole, heads, heads[:1]))
        trace = run_unet(unet, plan).trace
    restored = trace.restored.flatten().tolist()
    assert restored[0] == pytest.approx(restored[1], abs=1e-6) and abs(restored[2] - restored[0]) > 1e-6


def test_gradients_do_not_estimate_heads(encoder):
    groups = (select(with_heads(text_sites(encoder), "*attn.h0"), names="text.0.self_attn.h0"),)
    with pytest.raises(TraceError, match="is a part of it"):
        attribute([make_case(encoder)], text_plan(encoder, groups=groups), None, latent_distance, score_name="s")
