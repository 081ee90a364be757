"""What the statistics promise, on made-up traces: few false alarms, planted effects found, intervals that cover."""

import itertools
import math

import pytest
import torch
from diff_quickfix.tracing.results.comparison import rank_correlation
from diff_quickfix.tracing.results.judgement import judge
from diff_quickfix.tracing.results.locate import best_cell, locate
from diff_quickfix.tracing.results.sign_flips import (
    LEAST_PROMPTS,
    cell_wise_p,
    family_wise_p,
    judge_cells,
    paired_differences,
    q_values,
)
from diff_quickfix.tracing.results.statistics import mean_interval
from diff_quickfix.tracing.results.trace import CausalTrace
from hypothesis import given
from hypothesis import strategies as st
from noise_traces import make


def normal(shape, rng):
    return torch.randn(shape, generator=rng)


def skewed(shape, rng):
    return -torch.rand(shape, generator=rng).clamp_min(1e-9).log() - 1


def heavy(shape, rng):
    """Student's t with two degrees of freedom."""
    return torch.randn(shape, generator=rng) / (-torch.rand(shape, generator=rng).clamp_min(1e-9).log()).sqrt()


def without_effect(draw, rng, *, spread=0.0, prompts=12, seeds=1, draws=1, cells=30, controls=8):
    """Effects (P, S, D, L, 1) and controls (P, S, D, C) of cells that do what controls do."""
    scale = (spread * torch.randn(cells, generator=rng)).exp()
    runs = (prompts, seeds, draws)
    effects, control = draw((*runs, cells), rng) * scale, draw((*runs, controls), rng)
    return (effects)[..., None], control * scale[torch.randint(cells, (controls,), generator=rng)]


def altered(trace, **scores):
    return CausalTrace(**{**vars(trace), **scores})


KINDS = {"equal": (normal, 0), "skewed": (skewed, 0), "heavy tails": (heavy, 0), "unequal spread": (normal, 1.0)}


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_traces_without_effect_raise_few_false_alarms(kind):
    """At most 5 % of the traces, and a margin for 200 of them. The benchmark has more, and larger ones."""
    draw, spread = KINDS[kind]
    rng = torch.Generator().manual_seed(1)
    alarms = 0
    for _ in range(200):
        effects, controls = without_effect(draw, rng, spread=spread, prompts=12)
        alarms += bool((judge_cells(effects, controls, torch.ones(12, 1, 1), smallest=0).nan_to_num() != 0).any())
    assert alarms <= 14


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_prompts_runs_share_is_one_witness(kind):
    """Four runs of a prompt that agree are one: prompts differ in what each cell does to them."""
    draw, spread = KINDS[kind]
    rng = torch.Generator().manual_seed(2)
    alarms = 0
    for _ in range(200):
        effects, controls = without_effect(draw, rng, spread=spread, prompts=8, seeds=2, draws=2)
        own, null = without_effect(draw, rng, spread=spread, prompts=8)
        shared = draw((8, 1, 1, 1), rng)
        effects, controls = effects + 2 * own + shared[..., None], controls + 2 * null + shared
        alarms += bool((judge_cells(effects, controls, torch.ones(8, 2, 2), smallest=0).nan_to_num() != 0).any())
    assert alarms <= 14


@pytest.mark.parametrize("prompts", [6, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_planted_effects_are_found(kind, prompts):
    draw, _ = KINDS[kind]
    rng = torch.Generator().manual_seed(3)
    found = 0
    for _ in range(20):
        effects, controls = without_effect(draw, rng, prompts=prompts, draws=2)
        effects[:, :, :, 4] += 6 * (0.5 + torch.rand(prompts, 1, 1, 1, generator=rng))
        effects[:, :, :, 7] -= 6 * (0.5 + torch.rand(prompts, 1, 1, 1, generator=rng))
        verdict = judge_cells(effects, controls, torch.ones(prompts, 1, 2))
        found += int(verdict[4, 0] == 1) + int(verdict[7, 0] == -1)
    assert found >= (38 if draw is not heavy else 30)


@pytest.mark.parametrize("prompts", range(1, LEAST_PROMPTS))
def test_too_few_prompts_prove_nothing_and_it_says_so(prompts):
    found = judge(make(prompts=prompts, seeds=3, draws=3, planted=(2, 1)))
    assert found.verdict.isnan().all() and found.significance.isnan().all()
    assert not found.beats_control.any() and not found.judged
    assert f"{prompts} prompt" in found.text() and f"{LEAST_PROMPTS} are needed" in found.text()
    assert judge(make(prompts=LEAST_PROMPTS, planted=(2, 1))).beats_control[2, 1]


def test_without_a_verdict_hatching_describes_the_control_runs():
    trace = make(prompts=2, planted=(2, 1))
    controls, effect = trace.control_effects(), trace.average_indirect_effect()
    assert torch.equal(judge(trace).hatched, (effect >= controls.min()) & (effect <= controls.max()))
    bare = judge(make(prompts=2, controls=0))
    assert not bare.hatched.any() and "Too few control runs" in bare.text()


def test_hatched_cells_are_those_without_a_claim():
    found = judge(make(prompts=10, planted=(2, 1)))
    assert torch.equal(found.hatched, found.verdict == 0)
    assert not found.hatched[2, 1] and found.hatched.sum() > 6


def test_the_p_value_counts_flips():
    """By hand: six prompts that all agree are one of 32 pairs of flips; a fifth of that is the margin."""
    p = family_wise_p(torch.ones(6, 1))
    assert float(p) == pytest.approx(1 / 32 / 0.8)
    mixed = torch.tensor([3.0, 3, 3, 3, 3, -1])[:, None]
    # As large: all signs equal, the observed ones.
    assert float(family_wise_p(mixed)) == pytest.approx(2 / 32 / 0.8)


def stepped_down(values):
    """Oracle: the test as it is described, one flip, one cell and one step after another."""
    prompts, cells = values.shape
    size = values.square().sum(0).sqrt()
    scaled = values / (size + size.median())
    flips = torch.tensor(list(itertools.product((1.0, -1.0), repeat=prompts)), dtype=values.dtype)
    statistics, observed = (flips @ scaled).abs(), scaled.sum(0).abs()
    left, p, least = list(range(cells)), [0.0] * cells, 0.0
    while left:
        strongest = max(left, key=lambda cell: float(observed[cell]))
        reached = (statistics[:, left].amax(1) >= observed[strongest] - 1e-9).double().mean()
        least = max(least, float(reached))
        p[strongest] = min(1.0, least / 0.8)
        left.remove(strongest)
    return p


@pytest.mark.parametrize("seed", range(6))
def test_the_p_values_are_those_of_the_description(seed):
    rng = torch.Generator().manual_seed(seed)
    values = torch.randn(7, 5, generator=rng, dtype=torch.float64) * torch.tensor([1, 3, 1, 0.2, 1])
    values += torch.tensor([0, 4, 1.5, 0.1, -1.5])
    assert family_wise_p(values).tolist() == pytest.approx(stepped_down(values), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_cells_own_p_value_is_its_share_of_flips(seed):
    """Oracle: the statistics of every flip of every cell, one after another."""
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed)).double() + torch.linspace(0, 2, 5)
    size = values.square().sum(0).sqrt()
    flips = torch.tensor(list(itertools.product((1.0, -1.0), repeat=7)), dtype=torch.float64)
    every = (flips @ (values / (size + size.median()))).abs()
    wanted = [float((every >= one - 1e-9).double().mean()) for one in every[0]]
    assert cell_wise_p(values).tolist() == pytest.approx(wanted, abs=1e-6)
    torch.testing.assert_close(cell_wise_p(1e-6 * values), cell_wise_p(values))
    assert cell_wise_p(values[:5]).isnan().all()


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30))
def test_q_values_are_benjamini_and_hochbergs(values):
    """Oracle: their procedure. At a level all up to the largest i with p(i) <= i / m * level are claimed, and a cell's
    q is the smallest level at which it is."""
    p = torch.tensor(values, dtype=torch.float64)
    q, m = q_values(p), len(values)
    ordered = sorted(values)
    for level in (0.01, 0.05, 0.2, 0.5, 0.9):
        ends = [one for rank, one in enumerate(ordered, 1) if one <= rank / m * level + 1e-12]
        claimed = p <= max(ends, default=0.0)
        assert torch.equal(q <= level + 1e-12, claimed)
    gaps = torch.cat([p, torch.tensor([torch.nan], dtype=p.dtype)])
    assert torch.equal(q_values(gaps)[:-1], q) and q_values(gaps)[-1].isnan()
    assert q_values(gaps[-1:]).isnan().all() and (q >= p - 1e-12).all()


@pytest.mark.parametrize("size", [0.0, 2.0])
def test_few_claims_by_q_are_false(size):
    """Simulated: without an effect one trace in twenty has a claim at most, and with some one claim in twenty is
    false."""
    rng, traces, planted = torch.Generator().manual_seed(8), 120, 3 if size else 0
    false = found = 0.0
    for _ in range(traces):
        effects, controls = without_effect(normal, rng)
        effects[..., :planted, 0] += size
        claims = q_values(cell_wise_p(paired_differences(effects, controls))).flatten() <= 0.05
        false += float(claims[planted:].sum() / claims.sum().clamp_min(1)) / traces
        found += float(claims[:planted].double().sum()) / traces
    assert false <= 0.05 + 2 * (0.05 * 0.95 / traces) ** 0.5
    assert found > 2 if size else found == 0


def test_claims_of_all_cells_together_are_claims_by_q():
    trace = make(prompts=12, planted=(2, 1))
    found = judge(trace)
    assert (found.q[found.verdict == 1] <= 0.05).all() and (found.p <= found.q).all()
    assert judge(make(prompts=5)).p.isnan().all()


def test_drawn_flips_hold_the_observed_signs_too():
    p = family_wise_p(torch.full((60, 3), 1.0))
    assert (p > 0).all() and (p < 0.001).all()


def test_the_p_value_knows_no_units_names_or_sides():
    rng = torch.Generator().manual_seed(5)
    values = torch.randn(9, 7, generator=rng) + torch.linspace(0, 2, 7)
    p, order = family_wise_p(values), torch.randperm(7, generator=rng)
    torch.testing.assert_close(family_wise_p(1e-4 * values), p)
    torch.testing.assert_close(family_wise_p(-values), p)
    torch.testing.assert_close(family_wise_p(values[:, order]), p[order])
    torch.testing.assert_close(family_wise_p(values[torch.randperm(9, generator=rng)]), p)
    assert p.max() > 0.5 and p.min() < 0.05


def test_more_cells_make_a_claim_harder():
    rng = torch.Generator().manual_seed(6)
    values = torch.randn(12, 200, generator=rng)
    values[:, 0] += 1.2
    assert family_wise_p(values[:, :2])[0] < family_wise_p(values)[0]


def test_each_difference_is_one_effect_and_one_control():
    effects, controls = torch.zeros(4, 1, 2, 3, 1), torch.arange(24.0).reshape(4, 1, 2, 3)
    differences = paired_differences(effects, controls)[..., 0]
    means = controls.mean((1, 2))
    for prompt in range(4):
        # Each cell another control, and the same cell another one in the next prompt.
        want = [-means[prompt, (prompt + cell) % 3] for cell in range(3)]
        assert differences[prompt].tolist() == pytest.approx([float(value) for value in want])


def test_what_the_control_does_too_is_no_effect():
    trace = make(prompts=12)
    lifted = altered(trace, restored=trace.restored + 5, control=trace.control + 5)
    assert not judge(lifted).beats_control.any()
    lifted = altered(trace, restored=trace.restored + 5)
    assert judge(lifted).beats_control.all()


def test_trifles_are_not_claimed():
    trace = make(prompts=12, noise=1e-6)
    total = float(trace.total_effects().mean())
    small = altered(trace, restored=trace.restored + 0.01 * total)
    assert not judge(small).beats_control.any()
    assert judge(small, smallest=0.005).beats_control.all()


def test_an_effect_below_zero_does_not_beat_a_control_farther_below():
    trace = make(prompts=12)
    found = judge(altered(trace, restored=trace.restored - 1, control=trace.control - 5))
    assert (found.significance >= 1).all() and (found.verdict == 0).all()


def test_without_controls_nothing_is_judged():
    assert not judge(make(controls=0, planted=(0, 0))).judged


def test_unmeasured_cells_are_not_judged_and_do_not_disturb_others():
    trace = make(prompts=12, planted=(2, 1))
    part = trace.restored.clone()
    part[..., 1, 1] = torch.nan
    part[3:, ..., 0, 0] = torch.nan
    part[7:, ..., 0, 1] = torch.nan
    found = judge(altered(trace, restored=part))
    assert found.verdict[1, 1].isnan() and found.verdict[0, 0].isnan() and found.verdict[0, 1].isfinite()
    assert found.beats_control[2, 1]


def test_the_same_trace_is_judged_alike():
    one, other = (judge(make(prompts=40, seed=3, planted=(0, 0), noise=3.0)) for _ in range(2))
    assert torch.equal(one.significance, other.significance) and torch.equal(one.verdict, other.verdict)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_one_prompt_has_no_interval_however_many_runs():
    trace = make(prompts=1, seeds=5, draws=4)
    found = judge(trace)
    assert found.low.isnan().all() and found.high.isnan().all()
    assert math.isnan(best_cell(trace).low) and math.isnan(locate(trace, None).confidence)


@pytest.mark.parametrize("kind", ["equal", "skewed", "heavy tails"])
@pytest.mark.parametrize("prompts", [2, 3, 5, 10, 40])
def test_intervals_cover_the_mean(kind, prompts):
    """Two prompts of a skewed population tell least of its mean; from five on, 92 % and more."""
    values = KINDS[kind][0]((prompts, 4000), torch.Generator().manual_seed(prompts))
    low, high = mean_interval(values)
    covered = float(((low <= 0) & (high >= 0)).float().mean())
    assert covered >= (0.9 if prompts == 2 else 0.915 if prompts < 10 else 0.935)
    assert covered <= 0.985


def test_the_interval_is_students_where_nothing_is_skewed():
    """By hand: -1, 0, 1; standard error 1 / sqrt(3), t = 4.303 with two degrees of freedom."""
    low, high = mean_interval(torch.tensor([[-1.0], [0], [1]]))
    assert (float(low), float(high)) == pytest.approx((-4.3027 / 3**0.5, 4.3027 / 3**0.5), rel=1e-4)
    values = torch.tensor([[0.0], [0], [0], [0], [8]])
    low, high = mean_interval(values)
    half = 2.7764 * float(values.std()) / 5**0.5
    assert float(low) == pytest.approx(1.6 - half, rel=1e-3) and float(high) > 1.6 + 1.5 * half
    mirrored = mean_interval(-values)
    assert (float(mirrored[0]), float(mirrored[1])) == pytest.approx((-float(high), -float(low)))


def test_cells_measured_in_part_have_wider_intervals():
    trace = make(prompts=6)
    part = trace.restored.clone()
    part[2:, :, :, 0, 0] = torch.nan
    part[1:, :, :, 0, 2] = torch.nan
    found = judge(altered(trace, restored=part))
    wide = found.high - found.low
    assert wide[0, 0] > 1.5 * wide[1, 1]
    assert wide[0, 2].isnan()


def test_units_are_prompts():
    """Copies of one prompt's runs say nothing new: neither interval nor verdict changes with them."""
    few = make(prompts=7, seeds=1, draws=1)
    copies = {name: getattr(few, name).repeat_interleave(9, 2) for name in ("corrupted", "restored", "control")}
    many = judge(altered(few, draws=9, **copies))
    for name in ("low", "high", "significance", "verdict"):
        torch.testing.assert_close(getattr(judge(few), name), getattr(many, name), atol=1e-5, rtol=1e-4)


def test_how_sure_a_location_is_tells_how_many_prompts_say_so():
    assert "of 3 prompts, too few to lean on" in locate(make(prompts=3, planted=(0, 0)), None).text()
    found = locate(make(prompts=9, planted=(0, 0)), None)
    assert found.confidence == 1 and "of 9 prompts." in found.text()
    assert "One prompt: no confidence" in locate(make(prompts=1), None).text()


def test_ranks_of_a_trace_and_its_mirror():
    trace = make()
    assert rank_correlation(trace, trace) == pytest.approx(1)
