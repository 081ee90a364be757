"""The sweep: lockstep, interruption, examples, planted knowledge."""

import dataclasses

import pytest
import torch
from diff_quickfix.families.sites import select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.results.locate import best_cell
from diff_quickfix.tracing.results.trace import TraceError
from diff_quickfix.tracing.results.trace_file import load_trace
from diff_quickfix.tracing.runs import lockstep
from diff_quickfix.tracing.runs.cases import Restoration
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.scores.latent import latent_distance
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import LAST, LAYERS, hooks_of, layers_of, make_case, make_encoder, make_unet, states
from tiny_sweeps import (
    COLUMNS,
    STEPS,
    assert_same,
    paint_text,
    planted_unet,
    run_text,
    run_unet,
    text_plan,
    unet_plan,
)


@pytest.fixture
def encoder():
    return make_encoder()


def test_lockstep_equals_one_row_at_a_time(encoder):
    plan = text_plan(encoder)
    together, alone = (run_text(encoder, plan, rows=rows).trace for rows in (64, 1))
    assert_same(together, alone)
    assert together.restored.isfinite().all()
    assert together.restored.shape == (2, 2, 2, 3 * LAYERS, 3)
    assert (together.clean == 0).all()
    assert hooks_of(encoder) == 0


def test_the_same_sweep_twice_gives_the_same_bits(encoder):
    plan = text_plan(encoder)
    assert_same(run_text(encoder, plan).trace, run_text(encoder, plan).trace, atol=0)


def test_everything_restored_recovers_everything(encoder):
    trace = run_text(encoder, text_plan(encoder)).trace
    effects = trace.average_indirect_effect()
    row = trace.sites.index(f"text.{LAYERS - 1}.hidden")
    total = float(trace.total_effects().mean())
    assert float(effects[row, trace.columns.index("all")]) == pytest.approx(total, rel=1e-4)


def test_running_out_of_memory_halves_the_batch(encoder):
    sizes = []

    def small(states, seed, patches):
        sizes.append(len(states))
        if len(states) > 5:
            raise torch.cuda.OutOfMemoryError("no")
        return paint_text(states, seed, patches)

    plan = text_plan(encoder)
    assert_same(run_text(encoder, plan, small, rows=40).trace, run_text(encoder, plan).trace)
    assert max(sizes) == 40
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run_text(encoder, plan, lambda *_: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError("no")))


def test_an_interrupted_sweep_goes_on_where_it_stopped(encoder, tmp_path):
    plan, file, painted = text_plan(encoder), tmp_path / "trace.safetensors", []

    def counting(states, seed, patches):
        painted.append(len(states))
        return paint_text(states, seed, patches)

    def stop(done, total, results):
        if done > total // 2:
            raise KeyboardInterrupt

    whole = run_text(encoder, plan, counting)
    everything, painted[:] = sum(painted), []
    with pytest.raises(KeyboardInterrupt):
        run_text(encoder, plan, counting, progress=stop, checkpoint=file)
    assert hooks_of(encoder) == 0
    half, painted[:] = sum(painted), []
    resumed = run_text(encoder, plan, counting, checkpoint=file)
    assert_same(resumed.trace, whole.trace)
    assert half + sum(painted) < 1.1 * everything
    assert_same(load_trace(file), whole.trace)
    with pytest.raises(TraceError, match="columns"):
        run_text(encoder, dataclasses.replace(plan, columns=("x", "y", "z")), checkpoint=file)


ALL = 10_000


def assert_each_is_its_cell(encoder, plan, done):
    """Every example is what one restoration, encoded and painted alone, gives."""
    case = make_case(encoder, draws=plan.draws + 1, columns=COLUMNS.values())
    wanted = [Restoration(None), Restoration(0)]
    for row, column in done.cells:
        wanted.append(Restoration(0, tuple(site.name for site in plan.groups[row]), case.columns[column]))
    assert len(done.examples) == len(wanted)
    for example, one in zip(done.examples, wanted, strict=True):
        alone = paint_text(states(encoder, case, one), plan.seeds[0], ())[0]
        torch.testing.assert_close(example, alone, atol=1e-5, rtol=0)


def test_each_example_is_what_restoring_its_one_cell_paints(encoder):
    plan = text_plan(encoder)
    done = run_text(encoder, plan, examples=ALL)
    assert_each_is_its_cell(encoder, plan, done)
    effects = done.trace.average_indirect_effect()
    assert sorted(done.cells) == [(row, column) for row in range(len(plan.groups)) for column in range(len(COLUMNS))]
    strengths = [float(effects[cell]) for cell in done.cells]
    assert strengths == sorted(strengths, reverse=True)


def test_by_default_the_strongest_cell_alone_is_restored(encoder):
    done = run_text(encoder, text_plan(encoder))
    best = best_cell(done.trace)
    ((row, column),) = done.cells
    assert (done.trace.sites[row], done.trace.columns[column]) == (best.site, best.column)
    assert len(done.examples) == 3


@pytest.mark.parametrize("room", [0, 10**9])
def test_examples_of_a_resumed_sweep_are_no_other_ones(encoder, tmp_path, monkeypatch, room):
    """What the checkpoint spared, or memory did not hold, is painted again."""
    monkeypatch.setattr(lockstep, "_MOST_KEPT_BYTES", room)
    plan, file = text_plan(encoder), tmp_path / "trace.safetensors"

    def stop(done, total, results):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_text(encoder, plan, progress=stop, checkpoint=file)
    for _ in range(2):
        assert_each_is_its_cell(encoder, plan, run_text(encoder, plan, checkpoint=file, examples=9))


def test_what_was_painted_while_sweeping_is_not_painted_again(encoder):
    painted = []

    def counting(states, seed, patches):
        painted.append(len(states))
        return paint_text(states, seed, patches)

    run_text(encoder, text_plan(encoder), counting, examples=ALL)
    everything = 2 * 2 * (1 + 2 * (1 + len(text_plan(encoder).groups) * len(COLUMNS) + 3))
    assert sum(painted) == everything


def test_progress_counts_every_row(encoder):
    seen = []
    run_text(encoder, text_plan(encoder), progress=lambda done, total, results: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(encoder, value):
    case = make_case(encoder, columns=COLUMNS.values())
    with pytest.raises(TraceError, match="finite"):
        sweep(
            [case],
            text_plan(encoder),
            paint_text,
            lambda results, *_: torch.full((len(results),), value),
            rows=4,
            score_name="d",
        )


@given(layer=st.integers(0, LAYERS - 1))
@settings(max_examples=LAYERS)
def test_knowledge_planted_in_one_attention_layer_is_traced_to_it(layer):
    """T9: when one attention layer alone moves the subject to the last token, the tracer ranks it first there."""
    encoder = make_encoder()
    for number, block in enumerate(layers_of(encoder)):
        block.mlp.fc2.weight.zero_()
        if number != layer:
            block.self_attn.out_proj.weight.zero_()

    def paint(states, seed, patches):
        return states[:, LAST]

    kept = select(text_sites(encoder), kinds=["self_attn", "mlp"])
    plan = text_plan(encoder, groups=windows(kept, 1), columns=("last",), controls=0)
    case = make_case(encoder, columns=[(LAST,)])
    trace = sweep([case], plan, paint, latent_distance, rows=9, score_name="d").trace
    effects = trace.average_indirect_effect()[:, 0]
    best = trace.sites[int(effects.argmax())]
    assert best == f"text.{layer}.self_attn"
    assert float(effects.max()) == pytest.approx(float(trace.total_effects().mean()), rel=1e-4)
    assert sorted(effects.abs())[-2] < 1e-5


# --- UNet ------------------------------------------------------------------------------------------------------------


def test_unet_lockstep_equals_one_at_a_time():
    unet = make_unet()
    plan = unet_plan(
        unet, ["cross_attn", "resnet"], columns=("early", "all"), steps=(range(1), None), draws=2, controls=2
    )
    assert_same(run_unet(unet, plan, rows=9).trace, run_unet(unet, plan, rows=2).trace, atol=1e-5)
    assert hooks_of(unet) == 0


def test_a_step_window_of_all_steps_is_no_window_and_of_none_is_corrupted():
    unet = make_unet()
    plan = unet_plan(unet, ["cross_attn"], columns=("all", "0-2", "later"), steps=(None, range(STEPS), range(9, 10)))
    trace = run_unet(unet, plan).trace
    torch.testing.assert_close(trace.restored[..., 0], trace.restored[..., 1], atol=1e-6, rtol=0)
    torch.testing.assert_close(
        trace.restored[..., 2], trace.corrupted[..., None].expand_as(trace.restored[..., 2]), atol=1e-6, rtol=0
    )
    assert (trace.restored[..., 0] - trace.corrupted[..., None]).abs().amax() > 1e-4


def test_all_cross_attention_contexts_restored_is_the_clean_prompt():
    """T6: giving every cross-attention the clean text is running the clean prompt."""
    unet = make_unet()
    sites = unet_sites(unet)
    group = select(sites, kinds=["cross_context"])
    trace = run_unet(unet, unet_plan(unet, None, groups=(group,))).trace
    torch.testing.assert_close(trace.restored.flatten(), trace.clean.flatten(), atol=1e-5, rtol=0)
    assert float(trace.total_effects().amin()) > 1e-3


@pytest.mark.parametrize("planted", range(0, 7, 2))
def test_knowledge_planted_in_one_cross_attention_is_traced_to_it(planted):
    unet, cross = planted_unet(planted)
    for kind in ("cross_attn", "cross_context"):
        trace = run_unet(unet, unet_plan(unet, [kind])).trace
        effects = trace.average_indirect_effect()[:, 0]
        assert int(effects.argmax()) == planted % len(cross)
        assert float(effects.max()) == pytest.approx(float(trace.total_effects().mean()), rel=1e-3)
        assert sorted(effects.abs())[-2] < 1e-5


def test_severed_sites_stay_corrupted_in_the_unet():
    unet = make_unet()
    plan = unet_plan(unet, ["cross_attn"])
    plain = run_unet(unet, plan).trace.average_indirect_effect()
    severed = run_unet(unet, dataclasses.replace(plan, sever="resnet")).trace.average_indirect_effect()
    assert not torch.allclose(plain, severed, atol=1e-6)


def test_nothing_to_trace_is_refused(encoder):
    for bad in ({"groups": ()}, {"columns": ()}, {"seeds": ()}):
        with pytest.raises(TraceError, match="Nothing to trace"):
            run_text(encoder, text_plan(encoder, **bad))
    case = make_case(encoder, draws=1, columns=COLUMNS.values())
    with pytest.raises(TraceError, match="second draw"):
        sweep(
            [case],
            text_plan(encoder, draws=1),
            paint_text,
            latent_distance,
            rows=4,
            score_name="d",
        )


def test_controls_restore_from_another_draw(encoder):
    """The null must not contain the clean run: with two draws of opposite meaning it scores like a corrupted run."""
    plan = text_plan(encoder, groups=((text_sites(encoder)[-1],),), columns=("all",), controls=1)
    case = make_case(encoder, columns=[None])
    trace = sweep([case], plan, paint_text, latent_distance, rows=8, score_name="d").trace
    # Restoring the last hidden state at all positions from another draw is that other draw's corrupted run.
    torch.testing.assert_close(trace.control[..., 0, 0], trace.corrupted[..., 1], atol=1e-5, rtol=0)
