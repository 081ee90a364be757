"""The tracer's kernels, without ComfyUI, on models that lie on the device."""

import pytest
import torch
from diff_quickfix.families.sites import select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.runs.attribution import attribute
from diff_quickfix.tracing.runs.corruption import gaussian, replacement
from diff_quickfix.tracing.runs.interventions import patching
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.runs.plan import Plan
from diff_quickfix.tracing.scores.latent import latent_distance
from pretended import DEVICE
from tiny_models import SUBJECT, make_case, make_encoder, make_unet

pytestmark = pytest.mark.newest
TIMES = (800, 300)


class Euler:
    """A sampler without guidance on a UNet, wherever that lies."""

    steps = len(TIMES)

    def __init__(self, unet):
        self.unet = unet
        self.sites = {site.name: site for site in unet_sites(unet)}

    def start(self, seed, rows):
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
        return noise.repeat(rows, 1, 1, 1).to(self.unet.device)

    def advance(self, latents, step, states):
        return latents - 0.3 * self.unet(latents, TIMES[step], states).sample

    def index(self, row, rows):
        return (row,)

    def __call__(self, states, seed, patches):
        now = {"step": 0}
        latents = self.start(seed, len(states))
        with torch.no_grad(), patching(self.sites, patches, step=lambda: now["step"]):
            for now["step"] in range(self.steps):
                latents = self.advance(latents, now["step"], states)
        return latents


def plans(encoder, unet):
    text = text_sites(encoder)
    yield Plan("text", windows(select(text, kinds=("self_attn",)), 1), text, ("gogh", "all"), (3,), draws=2, controls=1)
    sites = unet_sites(unet)
    chosen = windows(select(sites, names="*mid*"), 1)
    yield Plan("unet", chosen, sites, ("all steps",), (1,), (None,))


def runs(device):
    """Traces, and estimates by gradients, of the text encoder and of the UNet."""
    encoder, unet = make_encoder(), make_unet()
    columns = ((4,), None)
    case = make_case(encoder, columns=columns)
    encoder.to(device)
    unet.to(device)
    ids = torch.tensor([[58, 7, 8, 9, 10, 11, 12, 59, 59, 59]], device=device)
    object.__setattr__(case, "encode", lambda rows: encoder(ids.expand(rows, -1)).last_hidden_state)
    painter = Euler(unet)
    for plan in plans(encoder, unet):
        shared = {"score_name": "distance"}
        with torch.no_grad():
            yield sweep([case], plan, painter, latent_distance, rows=6, **shared).trace
        plain = Plan(plan.component, plan.groups, plan.sites, plan.columns, plan.seeds, plan.steps)
        yield attribute([case], plain, painter, latent_distance, **shared)


def test_traces_and_estimates_are_those_of_the_cpu():
    for found, wanted in zip(runs(DEVICE), runs("cpu"), strict=True):
        for name in ("clean", "corrupted", "restored", "control"):
            one, other = getattr(found, name), getattr(wanted, name)
            assert type(one) is torch.Tensor and one.device.type == "cpu"
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("placed", ["cpu", DEVICE])
def test_a_corruption_is_on_the_cpu(placed):
    own, others = (torch.randn(2, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    for made, wanted in (
        (gaussian(own.to(placed), SUBJECT, draws=2), gaussian(own, SUBJECT, draws=2)),
        (replacement(own.to(placed), SUBJECT, others.to(placed)), replacement(own, SUBJECT, others)),
    ):
        assert type(made.deltas) is torch.Tensor and made.deltas.device.type == "cpu"
        torch.testing.assert_close(made.deltas, wanted.deltas)
