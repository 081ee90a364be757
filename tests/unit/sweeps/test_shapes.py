"""A sweep of Shapes: what workers trace shard by shard is what one trace of all prompts and seeds measures."""

import dataclasses

import pytest
import torch
from diff_quickfix.pipelines import PipelineError
from diff_quickfix.sweeps.plan import SweepError, seed_blocks
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.scores import joined
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.sweeps.tracers import new_plan, opened, opener_of
from diff_quickfix.tracing.results.trace import TENSORS, CausalTrace

PROMPTS = ("a red circle in the style of [van gogh]", "two [circles] on grass")
SETTINGS = {"steps": 1, "sites": "text.0.self_attn", "controls": 1}


def test_a_sweep_of_shapes_is_its_unsharded_trace_bit_by_bit(tmp_path):
    plan = new_plan("Shapes", SETTINGS, PROMPTS, seed_blocks((3, 5), 1))
    assert plan.tracer == "Shapes" and plan.settings["guidance"] == 5.0 and len(plan.identity["unet weights"]) == 32
    folder = SweepFolder.make(tmp_path, plan)
    assert run_sweep(folder).done == 4
    tracer, trace = opened(opener_of(plan)), joined(folder)
    whole = CausalTrace.joined([tracer.trace(prompt, (3, 5)) for prompt in PROMPTS])
    for name in TENSORS:
        torch.testing.assert_close(getattr(trace, name), getattr(whole, name), atol=0, rtol=0, equal_nan=True)
    assert trace.sites == ("text.0.self_attn",) and trace.subjects == ("van gogh", "circles")
    assert (trace.total_effects() > 0).all()


def test_the_unet_of_shapes_is_swept_too():
    tracer = opened(
        opener_of(
            new_plan("Shapes", {**SETTINGS, "component": "image", "sites": "unet.mid.*cross_attn"}, PROMPTS, [[1]])
        )
    )
    trace = tracer.trace(PROMPTS[0], (1,))
    assert trace.component == "unet" and trace.columns == ("all steps",) and trace.restored.isfinite().all()


def test_every_miniature_is_known_by_its_name(tmp_path):
    """Opened and told apart; Shapes DiT reads as many tokens as it was trained on."""
    plans = {
        name: new_plan(name, {**SETTINGS, "sites": "text.*.0.self_attn", "rows": 2}, PROMPTS[:1], [[1]])
        for name in ("Shapes XL", "Shapes DiT")
    }
    assert plans["Shapes XL"].identity["pipeline"] == "StableDiffusionXLPipeline"
    assert plans["Shapes DiT"].identity["pipeline"] == "FluxPipeline"
    assert plans["Shapes DiT"].settings["max_sequence_length"] == 40
    folder = SweepFolder.make(tmp_path, plans["Shapes DiT"])
    assert run_sweep(folder).done == 1
    assert joined(folder).sites == ("text.l.0.self_attn", "text.t5.0.self_attn")


def test_what_shapes_cannot_do_is_refused():
    with pytest.raises(PipelineError, match="Unknown settings sampler"):
        new_plan("Shapes", {"sampler": "ddim"}, PROMPTS, [[1]])
    plan = new_plan("Shapes", SETTINGS, PROMPTS, [[1]])
    with pytest.raises(SweepError, match="on the CPU"):
        opener_of(plan, device="cuda")()
    with pytest.raises(SweepError, match="traced by 'another'"):
        opener_of(dataclasses.replace(plan, tracer="another"))
