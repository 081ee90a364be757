"""A tracer of made-up scores for the tests of sweeps, which can be sent to other processes, and die there."""

import hashlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diff_quickfix.sweeps.plan import SweepPlan, seed_blocks
from diff_quickfix.tracing.results.trace import TENSORS, CausalTrace

SITES, COLUMNS = ("text.0.self_attn", "text.1.self_attn", "text.0.mlp"), ("subject", "all")
IDENTITY = {"text encoder": "a" * 64}
PROMPTS = tuple(f"a {thing} by [van gogh]" for thing in ("house", "tree", "dog", "cat", "boat", "moon", "hill", "road"))


def run_scores(prompt, seed, draws, controls):
    """The scores of one run, which depend on the prompt and the seed alone."""
    number = int.from_bytes(hashlib.sha256(f"{prompt} {seed}".encode()).digest()[:6], "big")
    rng = torch.Generator().manual_seed(number)
    corrupted = torch.randn(draws, generator=rng)
    restored = corrupted[:, None, None] + 0.1 * torch.randn(draws, len(SITES), len(COLUMNS), generator=rng)
    restored[:, 0, 0] += 1.0
    restored[:, 2, 1] = torch.nan
    control = corrupted[:, None] + 0.1 * torch.randn(draws, controls, generator=rng)
    return torch.tensor(3.0), corrupted, restored, control


def made_up_trace(prompts, seeds, settings=(("steps", 3),), draws=2, controls=4):
    """The trace of prompts in brackets, in one go."""
    runs = [[run_scores(prompt, seed, draws, controls) for seed in seeds] for prompt in prompts]
    scores = [torch.stack([torch.stack([run[i] for run in row]) for row in runs]) for i in range(4)]
    return CausalTrace(
        component="text",
        sites=SITES,
        columns=COLUMNS,
        column_axis="token",
        prompts=tuple(prompt.replace("[", "").replace("]", "") for prompt in prompts),
        subjects=tuple(prompt.split("[")[1].split("]")[0] for prompt in prompts),
        seeds=tuple(seeds),
        draws=draws,
        clean=scores[0],
        corrupted=scores[1],
        restored=scores[2],
        control=scores[3],
        score="cosine",
        settings=dict(settings),
    )


@dataclass(frozen=True)
class MadeUpTracer:
    opener: "MadeUpOpener"

    @property
    def identity(self):
        return {"text encoder": self.opener.weights}

    def trace(self, prompt, seeds):
        if self.opener.seconds:
            time.sleep(self.opener.seconds)
        if self.opener.refused and self.opener.refused in prompt:
            raise ValueError("the subject is not in the prompt")
        flag = Path(self.opener.dies_at) if self.opener.dies_at else None
        if flag is not None and self.opener.dies_over in prompt and not (self.opener.once and flag.exists()):
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return made_up_trace([prompt], seeds)


@dataclass(frozen=True)
class MadeUpOpener:
    """What is sent to workers. ``dies_at``: a file that is made before the worker over ``dies_over`` kills itself."""

    weights: str = "a" * 64
    seconds: float = 0.0
    refused: str = ""
    dies_at: str = ""
    dies_over: str = "dog"
    once: bool = True
    device: str = "cpu"

    def __call__(self):
        return MadeUpTracer(self)


def made_up_plan(prompts=PROMPTS, seeds=(0, 1, 2, 3), block=2, **changes):
    fields = {"tracer": "made up", "model": "none", "settings": {"steps": 3}, "identity": IDENTITY, **changes}
    return SweepPlan(**fields, prompts=tuple(prompts), seeds=seed_blocks(tuple(seeds), block))


def assert_equal(one, other):
    for name in TENSORS:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=0, rtol=0, equal_nan=True)
    assert (one.prompts, one.seeds, one.settings) == (other.prompts, other.seeds, other.settings)
