"""Sweeps run by all kinds of workers, which are killed, interrupted and refused; nothing is lost or counted twice."""

import dataclasses
import errno
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from diff_quickfix.sweeps.plan import SweepError
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.scores import joined
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.sweeps.tasks import Outcome, Task, trace_shard
from diff_quickfix.tracing.results import trace_file
from made_up_sweeps import PROMPTS, MadeUpOpener, assert_equal, made_up_plan, made_up_trace

SEEDS = (0, 1, 2, 3)
OPENER = MadeUpOpener()


def made(path, prompts=PROMPTS):
    return SweepFolder.make(path / "sweep", made_up_plan(prompts))


def contents(folder):
    return {path.name: path.read_bytes() for path in (folder.path / "shards").iterdir()}


@pytest.fixture
def wanted(tmp_path):
    """The files of a sweep that nothing happened to."""
    folder = made(tmp_path / "wanted")
    run_sweep(folder, opener=OPENER)
    return contents(folder)


def test_a_sweep_is_the_unsharded_trace_bit_by_bit(tmp_path):
    folder, told = made(tmp_path), []
    end = run_sweep(folder, opener=OPENER, progress=told.append)
    assert (end.done, end.total, end.failed, end.damaged) == (16, 16, (), ())
    assert_equal(joined(folder), made_up_trace(PROMPTS, SEEDS))
    assert [said.done for said in told] == list(range(17))
    assert told[0].left is None and told[-1].left == 0 and all(said.left >= 0 for said in told[1:])
    assert told[1].left == pytest.approx(15 * told[1].elapsed)


def test_what_is_finished_is_not_traced_again(tmp_path, wanted):
    folder = made(tmp_path)
    for number in (1, 2, 3):
        run_sweep(folder, opener=OPENER, part=(number, 3))
    assert contents(folder) == wanted
    times = {path: path.stat().st_mtime_ns for path in (folder.path / "shards").iterdir()}
    end = run_sweep(folder, opener=MadeUpOpener(refused="a"))
    assert (end.done, end.failed) == (16, ())
    assert {path: path.stat().st_mtime_ns for path in (folder.path / "shards").iterdir()} == times


def test_damaged_files_are_told_and_made_again(tmp_path, wanted):
    folder = made(tmp_path)
    run_sweep(folder, opener=OPENER)
    first, second = list((folder.path / "shards").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-1])
    data = bytearray(second.read_bytes())
    data[-3] ^= 1
    second.write_bytes(data)
    end = run_sweep(folder, opener=OPENER)
    assert {damage.shard.name for damage in end.damaged} == {first.name, second.name} and end.done == 16
    assert contents(folder) == wanted


def test_more_prompts_and_seeds_only_add_shards(tmp_path):
    folder = made(tmp_path, PROMPTS[:3])
    run_sweep(folder, opener=OPENER)
    before = contents(folder)
    folder = SweepFolder.make(folder.path, made_up_plan(PROMPTS, (0, 1, 2, 3, 4)))
    assert run_sweep(folder, opener=OPENER).done == 24
    assert before.items() <= contents(folder).items()
    assert_equal(joined(folder), made_up_trace(PROMPTS, (*SEEDS, 4)))


def test_two_machines_merge_into_the_one_sweep(tmp_path, wanted):
    one, other = made(tmp_path / "1"), made(tmp_path / "2")
    run_sweep(one, opener=OPENER, part=(1, 2))
    run_sweep(other, opener=OPENER, part=(2, 2))
    assert contents(one.merge(other)) == wanted


def test_a_prompt_that_cannot_be_traced_is_told_and_the_others_go_on(tmp_path):
    end = run_sweep(made(tmp_path), opener=MadeUpOpener(refused="dog"))
    assert end.done == 14 and {shard.prompt for shard, _ in end.failed} == {PROMPTS[2]}
    assert all("the subject is not in the prompt" in said for _, said in end.failed)


def test_a_sweep_in_which_nothing_can_be_traced_stops(tmp_path):
    with pytest.raises(SweepError, match=r"10 shards could not be traced.*the subject is not in the prompt"):
        run_sweep(made(tmp_path), opener=MadeUpOpener(refused="van"))


def test_another_model_is_refused(tmp_path):
    with pytest.raises(SweepError, match="other text encoder"):
        run_sweep(made(tmp_path), opener=MadeUpOpener(weights="b" * 64))
    older = SweepFolder.make(tmp_path / "old", made_up_plan(version="0.0.1"))
    with pytest.raises(SweepError, match=r"version 0\.0\.1"):
        run_sweep(older, opener=OPENER)


def test_a_full_disk_stops_the_sweep_and_it_goes_on_later(tmp_path, monkeypatch, wanted):
    folder, plain = made(tmp_path), trace_file.write_tensors
    room = iter(range(5))

    def write(path, *arguments):
        if next(room, None) is None:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trace_file, "write_tensors", write)
        with pytest.raises(SweepError, match=r"No space left on device.*finished shards count"):
            run_sweep(folder, opener=OPENER)
    assert len(contents(folder)) == 5 and contents(folder).items() <= wanted.items()
    run_sweep(folder, opener=OPENER)
    assert contents(folder) == wanted


def test_an_interrupt_leaves_finished_shards_and_nothing_else(tmp_path, wanted):
    folder = made(tmp_path)

    def interrupt(said):
        if said.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(folder, opener=OPENER, progress=interrupt)
    assert len(contents(folder)) == 6
    run_sweep(folder, opener=OPENER)
    assert contents(folder) == wanted


def test_any_executor_with_submit_will_do(tmp_path, wanted):
    folder = made(tmp_path)
    with ThreadPoolExecutor(3) as pool:
        assert run_sweep(folder, pool, workers=3, opener=OPENER).done == 16
        assert pool.submit(int, "3").result() == 3
    assert contents(folder) == wanted


def test_a_future_that_fails_is_tried_again_and_then_told(tmp_path, wanted):
    class Shaky:
        """Loses every task the first time; with ``dead`` every time."""

        def __init__(self, dead):
            self.dead, self.seen = dead, set()

        def submit(self, function, task):
            lost = self.dead or task not in self.seen
            self.seen.add(task)

            class Future:
                def done(self):
                    return True

                def result(self):
                    if lost:
                        raise ConnectionError("the node is gone")
                    return function(task)

            return Future()

    folder = made(tmp_path)
    with pytest.raises(SweepError, match=r"3 times a worker died.*the node is gone"):
        run_sweep(folder, Shaky(True), opener=OPENER)
    end = run_sweep(folder, Shaky(False), opener=OPENER)
    assert end.done == 16 and end.workers_lost == 16 and contents(folder) == wanted


def test_what_a_killed_worker_left_half_written_goes_with_an_interrupt(tmp_path):
    """The other workers of a broken pool are killed as well, in the midst of a file: their shards wait again then."""
    folder = made(tmp_path)

    class Broken:
        size = 1

        def __init__(self):
            self.tasks = []

        def start(self, task):
            self.tasks.append(task)

        def ended(self):
            shard = self.tasks.pop(0).shard
            folder.file(shard).with_name(f"{shard.name}.0123abcd.part").touch()
            return [Outcome(shard, error="killed", lost=True)]

        def close(self, *, cancel):
            pass

    def interrupt(said):
        if said.workers_lost == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweep(folder, Broken(), opener=OPENER, progress=interrupt)
    assert contents(folder) == {}


def test_a_worker_killed_in_mid_shard_loses_nothing(tmp_path, wanted):
    """Two processes; one is killed by a signal while it traces, then the run is interrupted, then it is ended."""
    folder = made(tmp_path)
    opener = MadeUpOpener(dies_at=str(tmp_path / "died"))

    def interrupt(said):
        if said.workers_lost and said.done >= 8:
            raise KeyboardInterrupt

    before = set(multiprocessing.active_children())
    with pytest.raises(KeyboardInterrupt):
        run_sweep(folder, "process", workers=2, opener=opener, progress=interrupt)
    assert (tmp_path / "died").exists() and set(multiprocessing.active_children()) <= before
    assert 8 <= len(contents(folder)) < 16 and contents(folder).items() <= wanted.items()
    assert run_sweep(folder, opener=dataclasses.replace(opener, dies_at="")).done == 16
    assert contents(folder) == wanted
    assert_equal(joined(folder), made_up_trace(PROMPTS, SEEDS))


def test_unknown_workers_and_parts_are_refused(tmp_path):
    folder = made(tmp_path)
    with pytest.raises(SweepError, match="no workers named 'dask'"):
        run_sweep(folder, "dask", opener=OPENER)
    with pytest.raises(SweepError, match="At least one worker"):
        run_sweep(folder, "process", workers=0, opener=OPENER)
    with pytest.raises(SweepError, match="no part 3 of 2"):
        run_sweep(folder, opener=OPENER, part=(3, 2))
    with pytest.raises(SweepError, match="made up"):
        run_sweep(folder)


def test_a_task_of_a_folder_that_is_gone_stops_the_sweep(tmp_path):
    shard = next(made_up_plan().shards())
    outcome = trace_shard(Task(OPENER, str(tmp_path / "none"), shard))
    assert isinstance(outcome, Outcome) and outcome.stops and "no sweep" in outcome.error
    assert os.listdir(tmp_path) == []
