"""How stable the ranks of a trace's cells are, and how alike two traces rank them, on made-up traces."""

import csv
import dataclasses
import io
import itertools

import pytest
import torch
from diff_quickfix.tracing.results.comparison import compare, rank_agreement
from diff_quickfix.tracing.results.heatmap import heatmap_svg
from diff_quickfix.tracing.results.judgement import judge
from diff_quickfix.tracing.results.locate import best_cell
from diff_quickfix.tracing.results.payload import heatmap_payload
from diff_quickfix.tracing.results.statistics import first_shares
from diff_quickfix.tracing.results.tables import cell_table
from diff_quickfix.tracing.results.trace import TraceError
from noise_traces import COLUMNS, SITES, make


def noise(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_of_noise_a_cell_chosen_beforehand_is_first_in_one_of_as_many_resamples_as_there_are_cells():
    cells, traces = 12, 150
    shares = torch.stack([first_shares(noise(seed, 10, 1, 1, cells), resamples=200) for seed in range(traces)])
    assert torch.allclose(shares.sum(1), torch.ones(traces), atol=1e-5)
    spread = float(shares.std() / traces**0.5)
    assert (shares.mean(0) - 1 / cells).abs().max() < 4 * spread < 0.06
    # The largest one is not chosen beforehand: it is first more often, and yet seldom in most resamples.
    assert 0.25 < float(shares.amax(1).median()) < 0.55


@pytest.mark.parametrize("place", [0, 7])
def test_a_strong_cell_is_always_first(place):
    effects = noise(1, 10, 2, 2, 4, 3)
    effects.flatten(3)[..., place] += 5
    shares = first_shares(effects).flatten()
    assert float(shares[place]) > 0.99 and int(shares.argmax()) == place


def test_the_shares_are_those_of_all_resamples():
    """Of two prompts of two seeds each: either is drawn twice, with one of two seeds twice each time."""
    effects, cells = noise(4, 2, 2, 1, 5), 5
    counted = torch.zeros(cells)
    draws = list(itertools.product(range(2), range(2), range(2)))
    for one, other in itertools.product(draws, draws):
        runs = [effects[prompt, seed, 0] for prompt, *seeds in (one, other) for seed in seeds]
        counted[int(torch.stack(runs).mean(0).argmax())] += 1 / len(draws) ** 2
    assert (first_shares(effects, resamples=20_000) - counted).abs().max() < 0.02


def test_cells_that_are_first_together_share_it_and_gaps_are_never_first():
    effects = torch.zeros(4, 1, 1, 3)
    assert first_shares(effects).tolist() == pytest.approx([1 / 3] * 3)
    effects[..., 0], effects[..., 1] = torch.nan, -1.0
    assert first_shares(effects).tolist() == pytest.approx([0, 0, 1])


def test_one_prompt_has_no_stability():
    assert first_shares(noise(2, 1, 4, 2, 3)).isnan().all()
    some = noise(2, 3, 1, 1, 3)
    some[1:] = torch.nan
    assert first_shares(some).isnan().all()


def test_it_is_told_in_the_judgement_on_the_map_and_in_the_table():
    trace = make(prompts=8, planted=(2, 1))
    found = judge(trace).first
    assert float(found[2, 1]) == best_cell(trace).first > 0.99
    assert heatmap_payload(trace)["first"][2][1] == pytest.approx(float(found[2, 1]))
    assert "first in 100% of resamples" in heatmap_svg(trace).replace("&#160;", " ")
    rows = list(csv.DictReader(io.StringIO(cell_table(trace))))
    assert [(row["site"], row["token"]) for row in rows] == list(itertools.product(SITES, COLUMNS))
    row = rows[2 * len(COLUMNS) + 1]
    judged = judge(trace)
    for name, values in (
        ("first_in_resamples", found),
        ("p", judged.p),
        ("q", judged.q),
        ("beats_control", judged.verdict),
        ("indirect_effect", trace.average_indirect_effect()),
    ):
        assert float(row[name]) == pytest.approx(float(values[2, 1]))
    single = list(csv.DictReader(io.StringIO(cell_table(make(prompts=1)))))
    assert all(row["first_in_resamples"] == row["p"] == row["low"] == "" for row in single)


def test_traces_that_rank_shared_cells_alike_correlate():
    trace = make(prompts=8, seed=1)
    raised = dataclasses.replace(trace, restored=trace.restored * 2 - trace.corrupted[..., None, None])
    assert compare(trace, raised).correlation == pytest.approx(1)
    mirrored = dataclasses.replace(trace, restored=2 * trace.corrupted[..., None, None] - trace.restored)
    # In the cells that they share alone, in whatever order.
    part = dataclasses.replace(
        mirrored, sites=mirrored.sites[::-1][:3], restored=mirrored.restored.flip(3)[:, :, :, :3]
    )
    assert compare(trace, part).correlation == pytest.approx(-1)


def test_other_numbers_of_a_traces_sites_are_ranked_beside_its_best_cells():
    trace = make(prompts=8, planted=(2, 1))
    best = dict(zip(SITES, trace.average_indirect_effect().amax(1).tolist(), strict=True))
    assert rank_agreement(trace, {site: 10**effect for site, effect in best.items()} | {"other": 9.0}) == pytest.approx(
        1
    )
    assert rank_agreement(trace, {site: -effect for site, effect in best.items()}) == pytest.approx(-1)
    with pytest.raises(TraceError, match="shares 1"):
        rank_agreement(trace, {SITES[0]: 1.0, "other": 2.0})
