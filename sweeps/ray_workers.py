"""Workers on Ray: one actor a GPU, or a share of one, each with the model loaded once. Ray is imported here alone."""

from __future__ import annotations

import time
from typing import Any

from .plan import Shard, SweepError
from .tasks import Outcome, Task, trace_shard

_POLL_S = 0.1


class _Actor:
    """In a worker process of Ray."""

    def trace(self, task: Task) -> Outcome:
        return trace_shard(task)


class RayWorkers:
    """Actors of a Ray cluster. The sweep's folder and the model lie where all of its machines see them.

    An actor that dies is replaced; its shard is told as lost, and may go to any actor.

    Args:
        size: how many actors.
        gpus: GPUs for each, such as 1 or 0.5.
        cpus: processors for each.
        address: of the cluster; None: what Ray finds (RAY_ADDRESS), else one on this machine.
        init: further arguments for ``ray.init`` where Ray does not run in this process yet.

    Raises:
        SweepError: Ray is not installed, or the cluster is not reached or too small.
    """

    def __init__(
        self,
        size: int,
        *,
        gpus: float = 0.0,
        cpus: float = 1.0,
        address: str | None = None,
        init: dict[str, Any] | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise SweepError('Ray is not installed. Install it: pip install "diff-quickfix[sweep]"') from error
        self.size, self._ray = size, ray
        self._own = not ray.is_initialized()
        try:
            if self._own:
                ray.init(address=address, log_to_driver=False, **(init or {}))
            self._require_room(gpus, cpus)
            # A restarted actor would refuse what it is given before it is up; a new one keeps it waiting.
            self._actor = ray.remote(num_gpus=gpus, num_cpus=cpus, max_restarts=0)(_Actor)
            self._idle: list[Any] = [self._actor.remote() for _ in range(size)]
        except SweepError:
            self._shut()
            raise
        except Exception as error:  # Ray raises many kinds, of which only the words say something
            self._shut()
            raise SweepError(f"Ray does not start ({error}). Is the cluster up, and its address right?") from error
        self._waiting: list[Task] = []
        self._running: dict[Any, tuple[Shard, Any]] = {}

    def _require_room(self, gpus: float, cpus: float) -> None:
        """Refuse actors that would wait for ever."""
        there = self._ray.cluster_resources()
        for name, each in (("GPU", gpus), ("CPU", cpus)):
            if each * self.size > there.get(name, 0.0):
                raise SweepError(
                    f"{self.size} workers of {each:g} {name} need {each * self.size:g}; the cluster has "
                    f"{there.get(name, 0.0):g}. Ask for fewer workers, or a smaller share for each."
                )

    def start(self, task: Task) -> None:
        self._waiting.append(task)
        self._give()

    def _give(self) -> None:
        while self._waiting and self._idle:
            task, actor = self._waiting.pop(0), self._idle.pop(0)
            try:
                self._running[actor.trace.remote(task)] = task.shard, actor
            except Exception as error:
                raise self._gone(error) from error

    def ended(self) -> list[Outcome]:
        if not self._running:
            time.sleep(_POLL_S)
            return []
        try:
            done, _ = self._ray.wait(list(self._running), timeout=_POLL_S)
        except Exception as error:
            raise self._gone(error) from error
        outcomes = [self._outcome(reference) for reference in done]
        self._give()
        return outcomes

    def _outcome(self, reference: Any) -> Outcome:
        shard, actor = self._running.pop(reference)
        try:
            outcome = self._ray.get(reference)
            self._idle.append(actor)
            return outcome
        except self._ray.exceptions.RayActorError as error:
            self._idle.append(self._actor.remote())
            return Outcome(shard, error=f"{type(error).__name__}: {error}".splitlines()[0], lost=True)
        except Exception as error:
            raise self._gone(error) from error

    def close(self, *, cancel: bool) -> None:
        # Actors end with the last reference; a cluster of others stays.
        for actor in (*self._idle, *(actor for _, actor in self._running.values())):
            try:
                self._ray.kill(actor)
            except Exception:  # the cluster is gone, and its actors with it
                break
        self._shut()

    def _shut(self) -> None:
        if self._own and self._ray.is_initialized():
            self._ray.shutdown()

    @staticmethod
    def _gone(error: Exception) -> SweepError:
        return SweepError(
            f"The connection to Ray is lost ({type(error).__name__}: {error}). Start the cluster and run the sweep "
            "again: finished shards count."
        )
