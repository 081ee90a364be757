"""What is read from the shards equals what one trace of all prompts and seeds says."""

import pytest
import torch
from diff_quickfix.sweeps.plan import SweepError
from diff_quickfix.sweeps.scores import joined, sweep_scores
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.tracing.results.heatmap import heatmap_svg
from diff_quickfix.tracing.results.judgement import judge
from made_up_sweeps import PROMPTS, assert_equal, made_up_plan, made_up_trace

SEEDS = (0, 1, 2, 3)


def swept(path, leave_out=0, **changes):
    folder = SweepFolder.make(path, made_up_plan(**changes))
    for shard in list(folder.plan.shards())[leave_out:]:
        folder.write(shard, made_up_trace([shard.prompt], shard.seeds), {"device": "cpu", "torch": "2"})
    return folder


@pytest.mark.parametrize("block", [1, 3, 4])
def test_joined_shards_are_the_unsharded_trace_bit_by_bit(tmp_path, block):
    assert_equal(joined(swept(tmp_path, block=block)), made_up_trace(PROMPTS, SEEDS))


@pytest.mark.parametrize("count", [3, 8])
def test_statistics_prompt_by_prompt_are_those_of_the_joined_trace(tmp_path, count):
    folder = swept(tmp_path, prompts=PROMPTS[:count], block=2)
    trace, found = made_up_trace(PROMPTS[:count], SEEDS), sweep_scores(folder)
    wanted = judge(trace)
    assert wanted.judged == (count == 8)
    for name in ("low", "high", "significance", "p", "q", "verdict", "hatched"):
        torch.testing.assert_close(
            getattr(found.judgement, name), getattr(wanted, name), atol=0, rtol=0, equal_nan=True, msg=name
        )
    for name in ("prompts", "controls", "runs"):
        assert getattr(found.judgement, name) == getattr(wanted, name), name
    for name, mine, theirs in (
        ("average", found.average, trace.average_indirect_effect()),
        ("recovery", found.recovery, trace.recovery()),
        ("total", torch.tensor(found.total), trace.total_effects().mean()),
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6, equal_nan=True, msg=name)
    torch.testing.assert_close(
        found.trace.average_indirect_effect(), found.average, atol=1e-5, rtol=1e-5, equal_nan=True
    )
    assert found.judgement.runs == count * 4 * 2 and found.made_with == {"device cpu, torch 2": 2 * count}
    assert f"{count * 8} runs a cell; {count * 32} control runs" in heatmap_svg(found.trace, judgement=found.judgement)


def test_a_part_of_a_sweep_is_told_and_its_whole_prompts_are_taken(tmp_path):
    folder = swept(tmp_path, leave_out=2)
    for read in (joined, sweep_scores):
        with pytest.raises(SweepError, match="2 of 16 shards are not finished"):
            read(folder)
    assert_equal(joined(folder, partial=True), made_up_trace(PROMPTS[1:], SEEDS))
    assert sweep_scores(folder, partial=True).trace.prompts == made_up_trace(PROMPTS[1:], SEEDS).prompts
    folder.file(next(iter(folder.sorted_out()[0]))).write_bytes(b"x")
    with pytest.raises(SweepError, match="1 of them with a damaged file"):
        joined(folder)


def test_without_any_whole_prompt_there_is_nothing_to_join(tmp_path):
    folder = SweepFolder.make(tmp_path, made_up_plan())
    with pytest.raises(SweepError, match="No prompt"):
        joined(folder, partial=True)
