"""Which workers share a device, and that one leaves it when its memory runs out. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from fedkube.planner.machine import Worker


class Devices:
    """Who is on each GPU. A worker that has left does not come back in this run."""

    def __init__(self, workers: Iterable[Worker]) -> None:
        self._there: dict[str, set[int]] = {}
        for worker in workers:
            if worker.gpu is not None:
                self._there.setdefault(worker.gpu, set()).add(worker.index)

    def count(self, worker: Worker) -> int:
        """How many workers there are on this one's GPU; 0 if it has none."""
        return len(self._there.get(worker.gpu or "", ()))

    def shared(self, worker: Worker) -> bool:
        """Whether it has its GPU together with others."""
        return self.count(worker) > 1

    def left(self, worker: Worker) -> bool:
        """Memory ran out: True if the worker is gone, False if it is the last and has to stay."""
        if not self.shared(worker):
            return False
        self._there[worker.gpu or ""].discard(worker.index)
        return True
