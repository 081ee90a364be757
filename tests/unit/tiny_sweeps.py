"""Sweeps of the tiny models, and painters for them."""

import dataclasses

import torch
from diff_quickfix.families.sites import select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.results.trace import CausalTrace
from diff_quickfix.tracing.runs.interventions import patching
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.runs.plan import Plan
from diff_quickfix.tracing.scores.latent import latent_distance
from tiny_models import CONTEXT, LAST, WIDTH, make_case, make_encoder, make_unet


def paint_text(states, seed, patches):
    assert not patches
    noise = torch.randn(CONTEXT * WIDTH, 6, generator=torch.Generator().manual_seed(seed))
    return torch.tanh(states.flatten(1) @ noise / 10)


COLUMNS = {"gogh": (4,), "last": (LAST,), "all": None}


def text_plan(encoder, **changes):
    sites = text_sites(encoder)
    plan = Plan("text", windows(sites, 1), sites, tuple(COLUMNS), (3, 4), draws=2, controls=3)
    return dataclasses.replace(plan, **changes)


def run_text(encoder, plan, painter=paint_text, rows=7, **options):
    case = make_case(encoder, draws=plan.draws + 1, columns=COLUMNS.values())
    cases = [case, dataclasses.replace(case, prompt="another", shares=make_case(encoder, seed=9).shares)]
    return sweep(
        cases,
        plan,
        painter,
        latent_distance,
        rows=rows,
        score_name="d",
        settings={"kinds": ("a", "b")},
        **options,
    )


def assert_same(one: CausalTrace, other: CausalTrace, atol=1e-5):
    for name in ("clean", "corrupted", "restored", "control"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=atol, rtol=0, msg=name)


# --- UNet ------------------------------------------------------------------------------------------------------------


STEPS = 3


def unet_painter(unet):
    """A plain Euler loop with guidance: the uncond half first, as samplers batch it; patches touch the cond half."""
    sites = {site.name: site for site in unet_sites(unet)}

    def paint(states, seed, patches):
        rows = len(states)
        now = {"step": 0}
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)).expand(rows, -1, -1, -1)
        with torch.no_grad(), patching(sites, patches, index=lambda row: (rows + row,), step=lambda: now["step"]):
            for step, time in enumerate((900, 600, 300)):
                now["step"] = step
                text = torch.cat([torch.zeros_like(states), states])
                uncond, cond = unet(x.repeat(2, 1, 1, 1), time, text).sample.chunk(2)
                x = x - 0.3 * (uncond + 3 * (cond - uncond))
        return x

    return paint


def planted_unet(number):
    """A UNet in which one cross-attention alone says anything, the ``number``-th, and the sites of all."""
    unet = make_unet()
    cross = select(unet_sites(unet), kinds=["cross_attn"])
    for place, site in enumerate(cross):
        if place != number % len(cross):
            site.module.to_out[0].weight.zero_()
    return unet, cross


def unet_plan(unet, kinds, **changes):
    sites = unet_sites(unet)
    plan = Plan("unet", windows(select(sites, kinds=kinds), 1), sites, ("all steps",), (1,), (None,), draws=1)
    return dataclasses.replace(plan, **changes)


def run_unet(unet, plan, rows=6):
    encoder = make_encoder()
    case = make_case(encoder, draws=plan.draws + 1)
    return sweep([case], plan, unet_painter(unet), latent_distance, rows=rows, score_name="d")
