"""LocoGen's probe: a clean run whose cross-attentions read other text within a window of layers."""

import dataclasses

import pytest
import torch
from diff_quickfix.families.sites import select, windows
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.results.heatmap import heatmap_svg
from diff_quickfix.tracing.results.locate import locate
from diff_quickfix.tracing.results.trace import PROBES, TraceError
from diff_quickfix.tracing.results.trace_file import load_trace, save_trace
from diff_quickfix.tracing.runs.attribution import attribute
from diff_quickfix.tracing.runs.cases import Restoration
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.scores.latent import latent_distance
from tiny_models import hooks_of, make_case, make_encoder, make_unet, states
from tiny_sweeps import STEPS, planted_unet, run_unet, unet_painter, unet_plan


def probing(unet, size=1, **changes):
    groups = windows(select(unet_sites(unet), kinds=["cross_context"]), size)
    return unet_plan(unet, None, groups=groups, probe=PROBES[1], **changes)


def by_hand(unet, clean, other, modules, seed, steps=range(STEPS)):
    """Oracle: one row painted alone, some attentions of which are given other text by a hook of this file."""
    now = {}

    def swap(module, args, kwargs):
        text = kwargs["encoder_hidden_states"].clone()
        if now["step"] in steps:
            text[1] = other[0]
        return args, {**kwargs, "encoder_hidden_states": text}

    handles = [module.register_forward_pre_hook(swap, with_kwargs=True) for module in modules]
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for now["step"], time in enumerate((900, 600, 300)):
            text = torch.cat([torch.zeros_like(clean), clean])
            uncond, cond = unet(x.repeat(2, 1, 1, 1), time, text).sample.chunk(2)
            x = x - 0.3 * (uncond + 3 * (cond - uncond))
    for handle in handles:
        handle.remove()
    return x


@pytest.mark.parametrize("rows", [3, 8])
def test_a_window_reads_the_other_text_as_plain_hooks_make_it(rows):
    unet, encoder = make_unet(), make_encoder()
    plan = probing(unet, 2, draws=2, columns=("all", "late"), steps=(None, range(1, STEPS)))
    trace = run_unet(unet, plan, rows=rows).trace
    case = make_case(encoder, draws=3)
    clean, *others = states(encoder, case, Restoration(None), Restoration(0), Restoration(1)).split(1)
    reference = by_hand(unet, clean, clean, [], 1)
    for draw, other in enumerate(others):
        for row, group in enumerate(plan.groups):
            for column, steps in enumerate((range(STEPS), range(1, STEPS))):
                wanted = by_hand(unet, clean, other, [site.module for site in group], 1, steps)
                score = float(latent_distance(wanted, reference, ""))
                assert float(trace.restored[0, 0, draw, row, column]) == pytest.approx(score, rel=1e-3, abs=1e-6)
    assert hooks_of(unet) == 0


def test_the_other_text_everywhere_is_the_other_prompt():
    """T6: then a probe takes away everything; and where nothing reads it, nothing."""
    unet = make_unet()
    every = select(unet_sites(unet), kinds=["cross_context"])
    plan = dataclasses.replace(probing(unet), groups=(every,), columns=("all", "never"), steps=(None, range(9, 10)))
    trace = run_unet(unet, plan).trace
    total = trace.total_effects()
    assert float(total.min()) > 1e-3
    torch.testing.assert_close(trace.indirect_effects()[..., 0, 0], total, atol=1e-5, rtol=0)
    assert trace.indirect_effects()[..., 0, 1].abs().max() < 1e-6
    assert trace.recovery().flatten().tolist() == pytest.approx([1, 0], abs=1e-3)


@pytest.mark.parametrize("planted", range(0, 7, 2))
def test_knowledge_planted_in_one_cross_attention_is_found(planted):
    unet, cross = planted_unet(planted)
    trace = run_unet(unet, probing(unet)).trace
    found = locate(trace, "cross_context")
    assert found.site == cross[planted % len(cross)].name.replace("cross_attn", "cross_context")
    assert found.recovery == pytest.approx(1, rel=1e-3) and "the other text takes away" in found.text()


def test_it_is_kept_in_the_file_and_named_on_the_map(tmp_path):
    unet = make_unet()
    trace = run_unet(unet, probing(unet)).trace
    save_trace(trace, tmp_path / "probe.safetensors")
    again = load_trace(tmp_path / "probe.safetensors")
    assert again.probe == "other text" and torch.equal(again.indirect_effects(), trace.indirect_effects())
    assert "LocoGen" in heatmap_svg(trace) and "LocoGen" not in heatmap_svg(dataclasses.replace(trace, probe="restore"))
    # An earlier version, which knows format 1 alone, refuses it; other traces are written as before.
    assert b'"schema": 2' in (tmp_path / "probe.safetensors").read_bytes().replace(b'\\"', b'"')
    save_trace(dataclasses.replace(trace, probe="restore"), tmp_path / "plain.safetensors")
    assert b'"schema": 1' in (tmp_path / "plain.safetensors").read_bytes().replace(b'\\"', b'"')
    with pytest.raises(TraceError, match="one of restore, other text"):
        dataclasses.replace(trace, probe="swap")


def test_a_checkpoint_of_the_other_probe_is_refused(tmp_path):
    unet, case, file = make_unet(), make_case(make_encoder()), tmp_path / "part.safetensors"
    plan = probing(unet)
    restoring = dataclasses.replace(plan, probe=PROBES[0])
    options = {"rows": 6, "score_name": "d", "checkpoint": file}
    sweep([case], restoring, unet_painter(unet), latent_distance, **options)
    with pytest.raises(TraceError, match="other probe"):
        sweep([case], plan, unet_painter(unet), latent_distance, **options)


def test_what_reads_no_text_or_has_no_meaning_is_refused():
    unet = make_unet()
    with pytest.raises(TraceError, match=r"unet\..*\.cross_attn reads something else"):
        run_unet(unet, unet_plan(unet, ["cross_attn"], probe=PROBES[1]))
    for changes in ({"controls": 2}, {"sever": "resnet"}):
        with pytest.raises(TraceError, match="no controls and nothing to sever"):
            run_unet(unet, probing(unet, **changes))
    with pytest.raises(TraceError, match="not estimated by gradients"):
        attribute([make_case(make_encoder())], probing(unet), None, latent_distance, score_name="d")
