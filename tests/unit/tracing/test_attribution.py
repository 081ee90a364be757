"""Gradient attribution against tracing: equal where the model is linear, and to first order everywhere else."""

import dataclasses

import pytest
import torch
from diff_quickfix.families.sites import Span, select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.results.comparison import rank_correlation
from diff_quickfix.tracing.results.trace import TraceError
from diff_quickfix.tracing.runs.attribution import attribute
from diff_quickfix.tracing.runs.interventions import patching
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.runs.plan import Plan
from tiny_models import CONTEXT, LAST, LAYERS, WIDTH, hooks_of, layers_of, make_case, make_encoder, make_unet

TIMES = (900, 600, 300)
COLUMNS = {"gogh": (4,), "last": (LAST,), "all": None}


class Euler:
    """A sampler with guidance, the uncond half first; usable step by step, and as the painter of a sweep."""

    steps = len(TIMES)

    def __init__(self, unet):
        self.unet = unet
        self.sites = {site.name: site for site in unet_sites(unet)}

    def start(self, seed, rows):
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return noise.repeat(rows, 1, 1, 1)

    def advance(self, latents, step, states):
        text = torch.cat([torch.zeros_like(states), states])
        uncond, cond = self.unet(latents.repeat(2, 1, 1, 1), TIMES[step], text).sample.chunk(2)
        return latents - 0.3 * (uncond + 3 * (cond - uncond))

    def index(self, row, rows):
        return (rows + row,)

    def __call__(self, states, seed, patches):
        now, rows = {"step": 0}, len(states)
        latents = self.start(seed, rows)
        with torch.no_grad(), patching(self.sites, patches, index=lambda row: (rows + row,), step=lambda: now["step"]):
            for now["step"] in range(self.steps):
                latents = self.advance(latents, now["step"], states)
        return latents


class NoSampler:
    """The text states themselves as the picture."""

    steps = 1

    def start(self, seed, rows):
        return torch.zeros(rows, CONTEXT, WIDTH, dtype=torch.float64)

    def advance(self, latents, step, states):
        return latents + states

    def index(self, row, rows):
        return (row,)

    def __call__(self, states, seed, patches):
        return states.detach()


def linear_score(scale):
    """A score without curvature of its own."""

    def score(results, clean, prompt):
        direction = torch.randn(results[0].numel(), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
        return scale * ((results - clean).flatten(1) @ direction)

    return score


def traced_and_estimated(cases, plan, sampler, score, **options):
    with torch.no_grad():
        traced = sweep(cases, plan, sampler, score, rows=8, score_name="s").trace
    return traced, attribute(cases, plan, sampler, score, score_name="s", **options)


def text_plan(encoder, kinds=None, **changes):
    sites = text_sites(encoder)
    plan = Plan("text", windows(select(sites, kinds=kinds), 1), sites, tuple(COLUMNS), (3,), draws=2)
    return dataclasses.replace(plan, **changes)


def unet_plan(unet, **changes):
    sites = unet_sites(unet)
    steps = tuple(range(step, step + 1) for step in range(len(TIMES)))
    plan = Plan("unet", windows(sites, 1), sites, tuple(map(str, steps)), (1,), steps)
    return dataclasses.replace(plan, **changes)


def assert_near(estimated, traced, tolerance):
    for name in ("clean", "corrupted"):
        torch.testing.assert_close(getattr(estimated, name), getattr(traced, name), rtol=1e-4, atol=1e-4)
    effects = traced.indirect_effects()
    error = (estimated.indirect_effects() - effects).abs().amax()
    assert float(effects.abs().amax()) > 0.05
    assert float(error / effects.abs().amax()) < tolerance


def test_exact_where_what_follows_is_linear():
    """T8: the last layer's MLP is added to the stream; without the final norm, all that follows is linear."""
    encoder = make_encoder().double()
    getattr(encoder, "text_model", encoder).final_layer_norm = torch.nn.Identity()
    case = make_case(encoder, columns=COLUMNS.values())
    plan = text_plan(encoder)
    last = [f"text.{LAYERS - 1}.mlp", f"text.{LAYERS - 1}.hidden"]
    plan = dataclasses.replace(plan, groups=windows(select(plan.sites, names=",".join(last)), 1))
    traced, estimated = traced_and_estimated([case], plan, NoSampler(), linear_score(1.0))
    assert_near(estimated, traced, 1e-5)
    assert rank_correlation(traced, estimated) == pytest.approx(1.0)
    # The last hidden state at all positions carries everything.
    total = float(estimated.total_effects().mean())
    assert float(estimated.average_indirect_effect()[1, 2]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("component", ["text", "unet"])
def test_first_order_for_every_site_token_and_step(component):
    """Under a corruption of one part in ten thousand every model is linear: the estimate is the trace."""
    encoder, unet = make_encoder().double(), make_unet().double()
    case = make_case(encoder, columns=COLUMNS.values(), multiple=1e-4)
    plan = text_plan(encoder) if component == "text" else unet_plan(unet)
    traced, estimated = traced_and_estimated([case], plan, Euler(unet), linear_score(1e4))
    assert_near(estimated, traced, 1e-2)
    assert rank_correlation(traced, estimated) > 0.98
    assert hooks_of(encoder) == hooks_of(unet) == 0


def test_more_points_follow_a_bent_path_better():
    """Restoring the embeddings' own stream is the whole path: averaged gradients approach its total effect."""
    encoder = make_encoder().double()
    for layer in layers_of(encoder)[:-1]:
        layer.self_attn.out_proj.weight.zero_()
        layer.mlp.fc2.weight.zero_()
    case = make_case(encoder, columns=COLUMNS.values())
    plan = dataclasses.replace(text_plan(encoder), columns=("all",), draws=1)
    plan = dataclasses.replace(plan, groups=windows(select(plan.sites, names="text.0.hidden"), 1))
    case = dataclasses.replace(case, columns=(None,))
    errors = []
    for points in (1, 4, 64):
        got = attribute([case], plan, NoSampler(), linear_score(1.0), score_name="s", points=points)
        errors.append(abs(float(got.average_indirect_effect()) - float(got.total_effects().mean())))
    assert errors[2] < 0.2 * errors[0]
    assert errors[2] < errors[1] < errors[0]


def test_steps_together_are_the_sum_of_each():
    encoder, unet = make_encoder().double(), make_unet().double()
    case = make_case(encoder)
    plan = unet_plan(unet)
    whole = dataclasses.replace(plan, columns=("all",), steps=(None,))
    each, together = (attribute([case], p, Euler(unet), linear_score(1.0), score_name="s") for p in (plan, whole))
    torch.testing.assert_close(
        together.average_indirect_effect()[:, 0], each.average_indirect_effect().sum(1), rtol=1e-4, atol=1e-5
    )


def test_a_window_is_the_sum_of_its_sites():
    encoder = make_encoder().double()
    case = make_case(encoder, columns=COLUMNS.values())
    plan = text_plan(encoder, ["mlp"])
    wide = dataclasses.replace(plan, groups=(tuple(group[0] for group in plan.groups),))
    each, together = (attribute([case], p, NoSampler(), linear_score(1.0), score_name="s") for p in (plan, wide))
    torch.testing.assert_close(
        together.average_indirect_effect(), each.average_indirect_effect().sum(0, keepdim=True), rtol=1e-4, atol=1e-5
    )


def test_what_cannot_be_estimated_is_refused():
    encoder = make_encoder().double()
    case = make_case(encoder, columns=COLUMNS.values())
    plan, score = text_plan(encoder), linear_score(1.0)
    with pytest.raises(TraceError, match="one point"):
        attribute([case], plan, NoSampler(), score, score_name="s", points=0)
    with pytest.raises(TraceError, match="Severed"):
        attribute([case], dataclasses.replace(plan, sever="mlp"), NoSampler(), score, score_name="s")
    with pytest.raises(TraceError, match="score"):
        attribute([case], plan, NoSampler(), lambda r, c, p: torch.zeros(len(r)), score_name="s")
    for part in ({"output": 1}, {"slot": 0}, {"span": Span(encoder, 0, text=True)}):
        cut = dataclasses.replace(plan.groups[0][0], **part)
        with pytest.raises(TraceError, match="is a part of it"):
            attribute([case], dataclasses.replace(plan, groups=((cut,),)), NoSampler(), score, score_name="s")

    def without_gradients(rows, encode=case.encode):
        with torch.no_grad():
            return encode(rows)

    deaf = dataclasses.replace(case, encode=without_gradients)
    with pytest.raises(TraceError, match="text encoder"):
        attribute([deaf], plan, NoSampler(), score, score_name="s")
    assert hooks_of(encoder) == 0


def test_ranks_of_ties_and_of_other_cells():
    encoder = make_encoder().double()
    case = make_case(encoder, columns=COLUMNS.values())
    plan = text_plan(encoder)
    trace = attribute([case], plan, NoSampler(), linear_score(1.0), score_name="s")
    assert rank_correlation(trace, trace) == pytest.approx(1.0)
    mirrored = dataclasses.replace(trace, restored=2 * trace.corrupted[..., None, None] - trace.restored)
    assert rank_correlation(trace, mirrored) == pytest.approx(-1.0)
    with pytest.raises(TraceError, match="same sites"):
        rank_correlation(trace, dataclasses.replace(trace, columns=("a", "b", "c")))
