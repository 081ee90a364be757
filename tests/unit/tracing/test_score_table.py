"""Batches and scores of a sweep at their edges: memory, resuming, severing, controls."""

import dataclasses

import pytest
import torch
from diff_quickfix.families.sites import select, windows
from diff_quickfix.families.text_stacks import text_sites
from diff_quickfix.families.unet import unet_sites
from diff_quickfix.tracing.results.trace import TraceError
from diff_quickfix.tracing.results.trace_file import load_trace
from diff_quickfix.tracing.runs import lockstep
from diff_quickfix.tracing.runs.cases import Restoration
from diff_quickfix.tracing.runs.interventions import Patch
from diff_quickfix.tracing.runs.lockstep import sweep
from diff_quickfix.tracing.runs.plan import Plan, jobs_of
from diff_quickfix.tracing.scores.latent import latent_distance
from tiny_models import make_case, make_encoder, make_unet, states
from tiny_sweeps import COLUMNS, assert_same, paint_text, run_text, run_unet, text_plan, unet_painter, unet_plan


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def half_of(encoder, plan, file):
    """Leave a checkpoint of about half a sweep."""

    def stop(done, total, results):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_text(encoder, plan, progress=stop, checkpoint=file)


def small(encoder, **changes):
    sites = text_sites(encoder)
    return text_plan(encoder, groups=windows(select(sites, kinds=["mlp"]), 1), **{"controls": 1, **changes})


def changed_plan(name, encoder, plan):
    return {
        "sites": lambda: dataclasses.replace(plan, groups=plan.groups[::-1]),
        "columns": lambda: dataclasses.replace(plan, columns=("a", "b", "c")),
        "seeds": lambda: dataclasses.replace(plan, seeds=(3, 5)),
        "draws": lambda: dataclasses.replace(plan, draws=1),
        "controls": lambda: dataclasses.replace(plan, controls=2),
    }[name]()


@pytest.mark.parametrize("name", ["sites", "columns", "seeds", "draws", "controls"])
def test_a_checkpoint_of_another_plan_is_refused_by_name(encoder, tmp_path, name):
    file = tmp_path / "trace.safetensors"
    plan = small(encoder)
    half_of(encoder, plan, file)
    with pytest.raises(TraceError, match=f"trace.safetensors was made with other {name};"):
        run_text(encoder, changed_plan(name, encoder, plan), checkpoint=file)
    run_text(encoder, plan, checkpoint=file)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"score_name": "another"}, "score"),
        ({"settings": {"kinds": "b", "sampler": {"cfg": 1, "steps": 1}}}, "kinds"),
        ({"settings": {"kinds": "a", "sampler": {"cfg": 2, "steps": 1}}}, "cfg"),
        ({"settings": {"kinds": "a", "sampler": {"cfg": 1}}}, "steps"),
        ({"settings": {"kinds": "a", "sampler": None}}, "cfg, steps"),
        ({"settings": {"kinds": "a", "sampler": {"cfg": 1, "steps": 1}, "made_with": {"negative": "x"}}}, "negative"),
        ({"prompt": "another prompt"}, "prompts"),
        ({"subject": "another"}, "subjects"),
        ({"component": "unet"}, "component"),
    ],
)
def test_a_checkpoint_with_another_setting_is_refused_by_its_name(encoder, tmp_path, change, named):
    file = tmp_path / "trace.safetensors"

    def run(prompt="a house by van gogh", subject="van gogh", component="text", **given):
        plan = small(encoder, component=component, steps=(None,) * len(COLUMNS))
        case = make_case(encoder, columns=COLUMNS.values())
        case = dataclasses.replace(case, prompt=prompt, subject=subject)
        more = {"score_name": "d", "settings": {"kinds": "a", "sampler": {"cfg": 1, "steps": 1}}, **given}
        sweep(
            [case],
            plan,
            paint_text,
            latent_distance,
            rows=99,
            checkpoint=file,
            **more,
        )

    run()
    with pytest.raises(TraceError, match=f"was made with other {named};"):
        run(**change)


def test_an_error_before_the_first_picture_leaves_no_file(encoder, tmp_path):
    file = tmp_path / "trace.safetensors"

    def fail(*args):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_text(encoder, small(encoder), fail, checkpoint=file)
    assert not file.exists()


def test_a_running_sweep_saves_now_and_then(encoder, tmp_path, monkeypatch):
    """A process that is killed has no chance to save at its end."""
    file = tmp_path / "trace.safetensors"
    now = iter(range(0, 10**6, 9))
    monkeypatch.setattr(lockstep.time, "monotonic", lambda: next(now))
    saved = []

    def look(done, total, results):
        if file.exists():
            saved.append((done, int(load_trace(file).restored.isfinite().sum())))

    run_text(encoder, small(encoder), progress=look, checkpoint=file)
    assert len({finite for _, finite in saved}) > 3
    assert all(finite <= done for done, finite in saved)


def test_a_resumed_sweeps_progress_counts_what_was_spared(encoder, tmp_path):
    file, plan = tmp_path / "trace.safetensors", small(encoder)
    half_of(encoder, plan, file)
    seen = []
    resumed = run_text(encoder, plan, progress=lambda done, total, results: seen.append((done, total)), checkpoint=file)
    assert_same(resumed.trace, run_text(encoder, plan).trace)
    assert seen[-1][0] == seen[-1][1] == 2 * 2 * len(jobs_of(plan))
    assert seen[0][0] > seen[0][1] // 3


def test_no_more_results_are_kept_than_memory_is_given(encoder, monkeypatch):
    painted = []

    def counting(states, seed, patches):
        painted.append(len(states))
        return paint_text(states, seed, patches)

    plan = small(encoder)
    cells = len(plan.groups) * len(COLUMNS)
    whole = 2 * 2 * len(jobs_of(plan))
    # Clean, the two corrupted ones, and two cells: the other cells' examples are painted again.
    monkeypatch.setattr(lockstep, "_MOST_KEPT_BYTES", 4 * paint_text(torch.zeros(1, 10, 32), 0, ()).nbytes)
    run_text(encoder, plan, counting, examples=cells)
    assert sum(painted) == whole + cells - 2


def test_a_scores_clean_run_is_the_seeds_own(encoder):
    """The first batch's clean result is what every batch is measured from; each prompt and seed has its own."""
    seen = []

    def score(results, clean, prompt):
        seen.append((prompt, tuple(clean.flatten().tolist())))
        return latent_distance(results, clean, prompt)

    plan = small(encoder)
    case = make_case(encoder, columns=COLUMNS.values())
    sweep([case], plan, paint_text, score, rows=4, score_name="d")
    clean = states(encoder, case, Restoration(None))
    wanted = [paint_text(clean, seed, ()).flatten() for seed in plan.seeds]
    assert len(set(seen)) == 2
    for (_, got), want in zip(dict.fromkeys(seen), wanted, strict=True):
        torch.testing.assert_close(torch.tensor(got), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("window", [1, 2])
def test_a_text_sweep_severs_what_lies_behind_the_window(encoder, window):
    """Oracle: each cell encoded alone, with every later attention held corrupted."""
    sites = text_sites(encoder)
    plan = text_plan(encoder, groups=windows(select(sites, kinds=["self_attn"]), window), sever="self_attn", controls=0)
    trace = run_text(encoder, plan).trace
    case = make_case(encoder, columns=COLUMNS.values())
    clean = paint_text(states(encoder, case, Restoration(None)), 3, ())
    changed = 0
    for row, group in enumerate(plan.groups):
        inside = tuple(site.name for site in group)
        later = tuple(f"text.{n}.self_attn" for n in range(row + window, 4))
        assert plan.severed(row) == later
        for column, positions in enumerate(COLUMNS.values()):
            severed, plain = (
                paint_text(states(encoder, case, Restoration(1, inside, positions, None, held)), 3, ())
                for held in (later, ())
            )
            wanted = float(latent_distance(severed, clean, ""))
            assert float(trace.restored[0, 0, 1, row, column]) == pytest.approx(wanted, abs=1e-5)
            changed += not torch.allclose(severed, plain, atol=1e-4)
    assert changed > 3


def test_a_window_of_other_kinds_between_does_not_sever_itself(encoder):
    sites = text_sites(encoder)
    plan = Plan("text", ((sites[0], sites[6]),), sites, ("all",), (0,), sever="self_attn")
    assert plan.severed(0) == ("text.3.self_attn",)
    assert dataclasses.replace(plan, sever=None).severed(0) == ()


def test_controls_stand_at_random_cells_from_other_draws(encoder):
    plan = text_plan(encoder, controls=40, draws=3)
    controls = [job for job in jobs_of(plan) if job.control is not None]
    assert len(controls) == 120
    cells = {(job.group, job.column) for job in controls}
    assert len(cells) > 20, "spread over the 36 cells"
    assert all(job.donor % 4 != job.draw for job in controls)
    other = [job for job in jobs_of(dataclasses.replace(plan, control_seed=1)) if job.control is not None]
    assert [(job.group, job.column) for job in other] != [(job.group, job.column) for job in controls]
    assert jobs_of(plan) == jobs_of(plan)


def test_controls_need_a_second_draw_of_every_prompt(encoder):
    cases = [make_case(encoder, draws=draws, columns=COLUMNS.values()) for draws in (2, 1)]
    plan = small(encoder, draws=1)
    with pytest.raises(TraceError, match="second draw"):
        sweep(cases, plan, paint_text, latent_distance, rows=4, score_name="d")


# --- UNet ------------------------------------------------------------------------------------------------------------


def test_a_unet_batch_counts_its_donors_and_shrinks_when_memory_runs_out():
    unet = make_unet()
    plan = unet_plan(unet, ["cross_attn"], draws=2, controls=1, sever="resnet")
    wanted = run_unet(unet, plan, rows=64).trace
    paint, sizes = unet_painter(unet), []

    def limited(most):
        def painting(states, seed, patches):
            sizes.append(len(states))
            if len(states) > most:
                raise torch.cuda.OutOfMemoryError("no")
            return paint(states, seed, patches)

        return painting

    def run(rows, most):
        sizes.clear()
        encoder = make_encoder()
        return sweep(
            [make_case(encoder, draws=3)],
            plan,
            limited(most),
            latent_distance,
            rows=rows,
            score_name="d",
        ).trace

    assert_same(run(5, 5), wanted)
    assert max(sizes) == 5
    assert_same(run(40, 6), wanted)
    # A restored row takes its clean and its corrupted donor along.
    for most in (1, 2):
        with pytest.raises(torch.cuda.OutOfMemoryError):
            run(8, most)
        assert len(sizes) < 20


def test_a_step_windows_column_restores_and_severs_at_its_own_steps():
    """Oracle: the same patches, of one cell alone."""
    unet = make_unet()
    sites = unet_sites(unet)
    plan = unet_plan(
        unet, ["cross_context"], columns=("first", "later"), steps=(range(1), range(1, 3)), sever="cross_attn"
    )
    trace = run_unet(unet, plan).trace
    encoder = make_encoder()
    case = make_case(encoder, draws=2)
    rows = states(encoder, case, Restoration(None), Restoration(0), Restoration(0))
    paint = unet_painter(unet)
    for column, steps in enumerate(plan.steps):
        name = plan.groups[0][0].name
        later = [site.name for site in sites[sites.index(plan.groups[0][0]) + 1 :] if site.kind == "cross_attn"]
        assert later
        patches = [Patch(name, 2, 0, None, steps), *(Patch(one, 2, 1, None, steps) for one in later)]
        results = paint(rows, plan.seeds[0], patches)
        wanted = float(latent_distance(results[2:], results[:1], ""))
        assert float(trace.restored[0, 0, 0, 0, column]) == pytest.approx(wanted, abs=1e-5)
