"""Ray for real, on two workers of this machine: one is killed in mid-shard, and the head goes away and comes back."""

from pathlib import Path

import made_up_sweeps
import pytest
import ray
from diff_quickfix.sweeps.plan import SweepError
from diff_quickfix.sweeps.ray_workers import RayWorkers
from diff_quickfix.sweeps.run import run_sweep
from diff_quickfix.sweeps.scores import joined
from diff_quickfix.sweeps.store import SweepFolder
from made_up_sweeps import PROMPTS, MadeUpOpener, assert_equal, made_up_plan, made_up_trace


@pytest.fixture
def head(monkeypatch):
    """How a head on this machine is started; it is gone after the test."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    pack = Path(made_up_sweeps.__file__).parent
    monkeypatch.setenv("PYTHONPATH", str(pack), prepend=":")
    yield {"include_dashboard": False, "num_cpus": 2, "object_store_memory": 100 * 2**20}
    ray.shutdown()


def test_a_killed_worker_and_a_restarted_head_lose_nothing(tmp_path, head):
    folder = SweepFolder.make(tmp_path / "sweep", made_up_plan())
    opener, lost = MadeUpOpener(dies_at=str(tmp_path / "died")), []

    def end_head(said):
        lost.append(said.workers_lost)
        if said.workers_lost and said.done >= 8:
            ray.shutdown()

    with pytest.raises(SweepError, match=r"connection to Ray is lost.*finished shards count"):
        run_sweep(folder, "ray", workers=2, opener=opener, progress=end_head, init=head)
    finished, missing, damaged = folder.sorted_out()
    assert lost[-1] == 1, "one death costs one shard, and the worker that takes its place waits for no other"
    assert (tmp_path / "died").exists() and len(finished) >= 8 and missing and not damaged
    ray.init(**head)
    with pytest.raises(SweepError, match="3 workers of 1 CPU need 3; the cluster has 2"):
        RayWorkers(3)
    assert ray.is_initialized(), "a cluster of others stays"
    end = run_sweep(folder, "ray", workers=2, opener=opener)
    assert (end.done, end.workers_lost, end.failed) == (16, 0, ())
    assert_equal(joined(folder), made_up_trace(PROMPTS, (0, 1, 2, 3)))
