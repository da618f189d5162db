"""A cluster that is only imagined: GPUs come and go, runs share them, calls get lost.

What decides is the planner's own (``share``, ``Need``); nodes, pods, workers and clients are events
in a queue. So it tells how well decisions go together with the time that pods take to start.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from fedkube.planner.need import PATIENCE_S, Need
from fedkube.planner.sharing import Demand, share
from fedkube.planner.supply import Node, Shape

GPU = "gpu"
_SHAPE = Shape({GPU: 1})


@dataclass(frozen=True, slots=True)
class Change:
    """From this second on, the node has so many GPUs; 0: it is gone."""

    at: float
    node: str
    gpus: int


@dataclass(frozen=True, slots=True)
class Training:
    """A run. ``rounds``: of each round, the seconds that its clients take.

    ``aggregate_s``: that the server takes after a round, in which workers idle.
    """

    name: str
    begins: float
    rounds: Sequence[Sequence[float]]
    weight: float = 1.0
    priority: int = 0
    aggregate_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Costs:
    """What things take. ``react_s``: from a change to new shares; ``start_s``: of a worker.

    ``lossless``: a call whose worker goes is gone on with where it was. ``longest_first``: it is
    known how long each client will take; else it is taken to be as long as the last time.
    """

    react_s: float = 1.0
    start_s: float = 8.0
    lossless: bool = False
    longest_first: bool = False


# A scheduler to whom workers cost nothing: they are there at once, lose nothing when they go, and
# it knows how long each client will take.
ORACLE = Costs(react_s=0.0, start_s=0.0, lossless=True, longest_first=True)


@dataclass(slots=True)
class Outcome:
    """How it went. ``useful_s``: GPU-seconds of calls that counted. ``offered_s``: GPU-seconds that
    there were until the last run's end. ``counted``: by run, round and client. ``without_s``: the
    longest time that a run with use for a worker had none, though there was one for each.
    """

    ended: dict[str, float] = field(default_factory=dict)
    useful_s: float = 0.0
    offered_s: float = 0.0
    lost: int = 0
    counted: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    without_s: float = 0.0

    @property
    def utilisation(self) -> float:
        """Of the GPUs that there were while there were runs."""
        return self.useful_s / self.offered_s if self.offered_s else 1.0


@dataclass(slots=True)
class _Call:
    client: int
    left_s: float


@dataclass(slots=True)
class _Worker:
    number: int
    run: _Run
    node: str = ""  # empty: it waits for one
    ready: bool = False
    call: _Call | None = None
    began: float = 0.0


@dataclass(slots=True)
class _Run:
    asked: Training
    number: int = -1  # of the round
    queue: deque[_Call] = field(default_factory=deque)
    unanswered: int = 0
    need: Need = field(default_factory=Need)
    workers: dict[int, _Worker] = field(default_factory=dict)
    over: bool = False
    since: float | None = None  # when it began to lack a worker that it should have


class Simulation:
    """One cluster from its first change to the last run's end."""

    def __init__(
        self, changes: Sequence[Change], runs: Sequence[Training], costs: Costs | None = None
    ) -> None:
        self._costs = costs or Costs()
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._gpus: dict[str, int] = {}
        self._runs = [_Run(each) for each in runs]
        self._due = False
        self.outcome = Outcome()
        for change in changes:
            self._at(change.at, partial(self._change, change))
        for run in self._runs:
            self._at(run.asked.begins, partial(self._begin_round, run))

    def run(self) -> Outcome:
        """All of it; RuntimeError if a run can never end, for want of GPUs."""
        while not all(run.over for run in self._runs):
            if not self._events:
                raise RuntimeError("there are runs that wait for GPUs, and none will come")
            at, _, happen = heapq.heappop(self._events)
            if any(not run.over and run.asked.begins <= self._now for run in self._runs):
                self.outcome.offered_s += sum(self._gpus.values()) * (at - self._now)
            self._now = at
            happen()
            self._watch()
        return self.outcome

    def _at(self, when: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen))

    # ------------------------------------------------------------- runs

    def _begin_round(self, run: _Run) -> None:
        run.number += 1
        if run.number == len(run.asked.rounds):
            run.over = True
            self.outcome.ended[run.asked.name] = self._now
            for worker in list(run.workers.values()):
                self._dismiss(worker)
        else:
            calls = [_Call(*each) for each in enumerate(run.asked.rounds[run.number])]
            known = run.number if self._costs.longest_first else run.number - 1
            if known >= 0:
                seconds = run.asked.rounds[known]
                calls.sort(key=lambda call: -seconds[call.client])
            run.queue.extend(calls)
            run.unanswered = len(calls)
            self._feed(run)
        self._noted(run)

    def _noted(self, run: _Run) -> None:
        """The run has another number of calls that are not over."""
        most = run.need.most(self._now)
        run.need.note(self._now, run.unanswered)
        if most is None or run.unanswered > most or run.over:
            self._poke()
        elif run.unanswered < len(run.workers):
            self._at(self._now + PATIENCE_S, self._poke)

    def _feed(self, run: _Run) -> None:
        for worker in run.workers.values():
            if worker.ready and worker.call is None and run.queue:
                worker.call, worker.began = run.queue.popleft(), self._now
                done = self._now + worker.call.left_s
                self._at(done, partial(self._answered, worker, worker.call))

    def _answered(self, worker: _Worker, call: _Call) -> None:
        run = worker.run
        if worker.call is not call:
            return  # it was lost meanwhile
        worker.call = None
        self.outcome.counted[run.asked.name, run.number, call.client] += 1
        self.outcome.useful_s += run.asked.rounds[run.number][call.client]
        run.unanswered -= 1
        self._feed(run)
        self._noted(run)
        if run.unanswered == 0:
            self._at(self._now + run.asked.aggregate_s, partial(self._begin_round, run))

    def _lose(self, worker: _Worker) -> None:
        """What the worker was at goes to the front of the queue."""
        call, worker.call = worker.call, None
        if call is None:
            return
        self.outcome.lost += 1
        if self._costs.lossless:
            call = _Call(call.client, call.left_s - (self._now - worker.began))
        worker.run.queue.appendleft(call)
        self._feed(worker.run)

    # ------------------------------------------------------------- the cluster

    def _change(self, change: Change) -> None:
        self._gpus[change.node] = change.gpus
        there = [each for each in self._bound() if each.node == change.node]
        # Whose GPU it is that goes is chance; the Job makes another pod for each.
        for worker in there[change.gpus :]:
            worker.node, worker.ready = "", False
            self._lose(worker)
        self._bind()
        self._poke()

    def _bound(self) -> list[_Worker]:
        workers = [each for run in self._runs for each in run.workers.values() if each.node]
        return sorted(workers, key=lambda each: each.number)

    def _bind(self) -> None:
        """As the scheduler does: whoever waits gets a place, on the node with the most free."""
        free = Counter(self._gpus)
        free.subtract(each.node for each in self._bound())
        waiting = [each for run in self._runs for each in run.workers.values() if not each.node]
        for worker in sorted(waiting, key=lambda each: each.number):
            node = max(sorted(free), key=lambda name: free[name], default="")
            if not node or free[node] <= 0:
                return
            free[node] -= 1
            worker.node = node
            at = self._now + self._costs.start_s
            self._at(at, partial(self._started, worker, node))

    def _started(self, worker: _Worker, node: str) -> None:
        if worker.node == node and worker.number in worker.run.workers and not worker.ready:
            worker.ready = True
            self._feed(worker.run)

    def _dismiss(self, worker: _Worker) -> None:
        del worker.run.workers[worker.number]
        worker.node, worker.ready = "", False
        self._lose(worker)

    # ------------------------------------------------------------- the coordinator

    def _poke(self) -> None:
        if not self._due:
            self._due = True
            self._at(self._now + self._costs.react_s, self._share_out)

    def _share_out(self) -> None:
        self._due = False
        going = [run for run in self._runs if run.number >= 0 and not run.over]
        demands = [
            Demand(
                run=run.asked.name,
                shape=_SHAPE,
                at_most=max(len(each) for each in run.asked.rounds),
                weight=run.asked.weight,
                priority=run.asked.priority,
                turn=f"{run.asked.begins:012.3f}",
                holds=Counter(each.node for each in run.workers.values() if each.node),
                use=run.need.most(self._now),
            )
            for run in going
        ]
        nodes = [Node(name, {GPU: count}) for name, count in self._gpus.items()]
        found = share(nodes, demands)
        for run in going:
            self._scale(run, found[run.asked.name].workers)
        self._bind()

    def _scale(self, run: _Run, count: int) -> None:
        # As the Job controller chooses: those without a node, then those that are not ready, then
        # the youngest, be they busy or not.
        order = sorted(
            run.workers.values(), key=lambda each: (each.node != "", each.ready, -each.number)
        )
        for worker in order[: max(0, len(order) - count)]:
            self._dismiss(worker)
        for _ in range(count - len(order)):
            worker = _Worker(next(self._numbers), run)
            run.workers[worker.number] = worker

    def _watch(self) -> None:
        """Note how long a run has lacked its first worker."""
        going = [run for run in self._runs if run.number >= 0 and not run.over]
        highest = max((run.asked.priority for run in going), default=0)
        enough = sum(self._gpus.values()) >= len(going)
        for run in going:
            served = run.asked.priority < highest or any(w.ready for w in run.workers.values())
            if served or not enough or not run.unanswered:
                run.since = None
            elif run.since is None:
                run.since = self._now
            else:
                self.outcome.without_s = max(self.outcome.without_s, self._now - run.since)


def simulate(
    changes: Sequence[Change], runs: Sequence[Training], costs: Costs | None = None
) -> Outcome:
    """How the runs go on that cluster."""
    return Simulation(changes, runs, costs).run()
