"""The folder of a sweep: a shard is there whole or not at all, and counts only if nothing in it was changed."""

import dataclasses
import errno
import os
import shutil
import time

import pytest
import torch
from diff_quickfix.sweeps.plan import Shard, SweepError
from diff_quickfix.sweeps.store import SweepFolder
from diff_quickfix.tracing.results import trace_file
from diff_quickfix.tracing.results.trace import TraceError
from hypothesis import given
from hypothesis import strategies as st
from made_up_sweeps import PROMPTS, made_up_plan, made_up_trace

SHARD = Shard(PROMPTS[0], (0, 1))
MADE = {"device": "cpu"}


@pytest.fixture
def folder(tmp_path):
    found = SweepFolder.make(tmp_path / "sweep", made_up_plan())
    found.write(SHARD, made_up_trace([SHARD.prompt], SHARD.seeds), MADE)
    return found


def test_a_shard_reads_back_as_it_was_traced(folder):
    assert SweepFolder.open(folder.path).plan == folder.plan
    (trace,) = folder.traces([SHARD])
    wanted = made_up_trace([SHARD.prompt], SHARD.seeds)
    assert trace.settings == wanted.settings and trace.prompts == wanted.prompts
    torch.testing.assert_close(trace.restored, wanted.restored, atol=0, rtol=0, equal_nan=True)
    finished, missing, damaged = folder.sorted_out()
    assert finished == [SHARD] and len(missing) == 15 and not damaged


def test_equal_shards_are_equal_files(folder, tmp_path):
    other = SweepFolder.make(tmp_path / "other", made_up_plan())
    other.write(SHARD, made_up_trace([SHARD.prompt], SHARD.seeds), MADE)
    assert folder.file(SHARD).read_bytes() == other.file(SHARD).read_bytes()


@given(where=st.floats(0, 1), bit=st.integers(0, 7), cut=st.booleans())
def test_whatever_is_changed_in_a_file_it_does_not_count(tmp_path_factory, where, bit, cut):
    folder = SweepFolder.make(tmp_path_factory.mktemp("sweep"), made_up_plan())
    wanted = made_up_trace([SHARD.prompt], SHARD.seeds)
    folder.write(SHARD, wanted, MADE)
    path = folder.file(SHARD)
    data = bytearray(path.read_bytes())
    at = int(where * (len(data) - 1))
    data[at] ^= 1 << bit
    path.write_bytes(bytes(data[:at]) if cut else bytes(data))
    finished, missing, damaged = folder.sorted_out()
    if finished:  # the place of a blank, or the way a letter is escaped: what it says is the same
        (trace,) = folder.traces([SHARD])
        torch.testing.assert_close(trace.restored, wanted.restored, atol=0, rtol=0, equal_nan=True)
        assert (trace.settings, trace.sites, trace.columns) == (wanted.settings, wanted.sites, wanted.columns)
    else:
        assert SHARD in missing and [damage.shard for damage in damaged] == [SHARD] and damaged[0].reason


def test_files_of_other_plans_and_other_shards_do_not_count(folder, tmp_path):
    other = SweepFolder.make(tmp_path / "other", made_up_plan(settings={"steps": 9}))
    other.write(SHARD, made_up_trace([SHARD.prompt], SHARD.seeds), MADE)
    shutil.copy(other.file(SHARD), folder.file(SHARD))
    assert "another plan" in folder.sorted_out()[2][0].reason
    moved = Shard(PROMPTS[1], (0, 1))
    shutil.copy(other.file(SHARD), other.file(moved))
    assert "another prompt" in other.sorted_out()[2][0].reason


def test_a_full_disk_leaves_nothing_and_is_told(folder, monkeypatch):
    def full(path, *arguments):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(trace_file, "write_tensors", full)
    before = sorted(folder.path.rglob("*"))
    shard = Shard(PROMPTS[1], (0, 1))
    with pytest.raises(TraceError, match="No space left on device"):
        folder.write(shard, made_up_trace([shard.prompt], shard.seeds), MADE)
    assert sorted(folder.path.rglob("*")) == before and not folder.has(shard)


def test_a_trace_of_something_else_is_not_written(folder):
    shard = Shard(PROMPTS[1], (0, 1))
    with pytest.raises(SweepError, match="seeds"):
        folder.write(shard, made_up_trace([shard.prompt], (0, 2)), MADE)
    trace = made_up_trace([shard.prompt], shard.seeds)
    with pytest.raises(SweepError, match="no numbers"):
        folder.write(shard, dataclasses.replace(trace, clean=trace.clean * torch.nan), MADE)


def test_what_killed_workers_left_is_cleaned_and_what_is_being_written_is_not(folder):
    old, new = (folder.path / "shards" / f"{SHARD.name}.{n}.part" for n in ("00000000", "11111111"))
    old.touch(), new.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    assert folder.clean() == 1 and not old.exists() and new.exists()
    assert folder.clean(0.0, [Shard("another", (1,))]) == 0 and new.exists()
    assert folder.clean(0.0, [SHARD]) == 1 and folder.has(SHARD)


def test_a_folder_grows_but_never_changes_its_settings(folder):
    longer = SweepFolder.make(folder.path, made_up_plan((*PROMPTS, "a [b]"), (0, 1, 8), 1))
    assert longer.plan.prompts[-1] == "a [b]" and longer.plan.seeds == ((0, 1), (2, 3), (8,))
    assert longer.has(SHARD)
    with pytest.raises(SweepError, match="settings: steps"):
        SweepFolder.make(folder.path, made_up_plan(settings={"steps": 9}))
    assert SweepFolder.open(folder.path).plan == longer.plan


def test_two_folders_of_one_plan_merge(folder, tmp_path):
    other = SweepFolder.make(tmp_path / "other", made_up_plan(PROMPTS[2:4], (0, 1)))
    shard = Shard(PROMPTS[2], (0, 1))
    other.write(shard, made_up_trace([shard.prompt], shard.seeds), MADE)
    whole = folder.merge(other)
    assert set(whole.sorted_out()[0]) == {SHARD, shard}
    assert whole.file(shard).read_bytes() == other.file(shard).read_bytes()
    with pytest.raises(SweepError, match="other settings"):
        folder.merge(SweepFolder.make(tmp_path / "third", made_up_plan(settings={"steps": 9})))


def test_a_folder_without_a_sweep_is_told(tmp_path):
    with pytest.raises(SweepError, match="no sweep"):
        SweepFolder.open(tmp_path)
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(SweepError, match="cannot be read"):
        SweepFolder.open(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(SweepError, match="Cannot write"):
        SweepFolder.make(tmp_path / "file" / "x", made_up_plan())
