"""Which workers share a device, who joins it, and who leaves it when memory runs out. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fedkube.core.accelerators import Reading
from fedkube.planner.machine import Plan, Worker
from fedkube.planner.packing import Packing


class Devices:
    """Who is on each GPU. A worker that has left does not come back in this run."""

    def __init__(self, plan: Plan) -> None:
        self._there: dict[str, set[int]] = {}
        self._reserve: dict[str, list[Worker]] = {}
        self._packings: dict[str, Packing] = {}
        for worker in plan.workers:
            self._join(worker)
        for worker in plan.reserve:
            self._reserve.setdefault(worker.gpu or "", []).append(worker)

    @property
    def to_fill(self) -> Sequence[str]:
        """GPUs of which it is to be found out how many workers they take."""
        return list(self._reserve)

    def count(self, worker: Worker) -> int:
        """How many workers there are on this one's GPU; 0 if it has none."""
        return len(self._there.get(worker.gpu or "", ()))

    def shared(self, worker: Worker) -> bool:
        """Whether it has its GPU together with others, or may have."""
        return self.count(worker) > 1 or bool(self._reserve.get(worker.gpu or ""))

    def begin(self, gpu: str, empty: Reading) -> Packing:
        """Find out how many a GPU takes that nobody is on yet."""
        self._packings[gpu] = Packing(1 + len(self._reserve[gpu]), empty.used_bytes)
        return self._packings[gpu]

    def join(self, gpu: str, count: int) -> list[Worker]:
        """So many of the GPU's reserve are on it from now on."""
        reserve = self._reserve.get(gpu, [])
        joined, reserve[:count] = reserve[:count], []
        for worker in joined:
            self._join(worker)
        return joined

    def no_more(self, gpu: str) -> None:
        """Nobody of its reserve is started any more."""
        self._reserve.pop(gpu, None)

    def left(self, worker: Worker) -> bool:
        """Memory ran out: True if the worker is gone, False if it is the last and has to stay."""
        gpu = worker.gpu or ""
        self.no_more(gpu)
        alone = self.count(worker) <= 1
        if not alone:
            self._there[gpu].discard(worker.index)
        if gpu in self._packings:
            self._packings[gpu].left(self.count(worker))
        return not alone

    def _join(self, worker: Worker) -> None:
        if worker.gpu is not None:
            self._there.setdefault(worker.gpu, set()).add(worker.index)
