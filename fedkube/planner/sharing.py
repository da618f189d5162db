"""Who gets how many workers where, when several runs want the same nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from fedkube.planner.supply import PODS, Amounts, Node, Shape, fitting, refusal, room

# By which a run is known.
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Demand(Generic[K]):
    """What a run wants.

    ``at_most``: workers that it asks for. ``use``: that it has use for now; None: all of them.
    ``holds``: its workers by node, which stay where they are if they can. ``limit``: what quotas
    leave to its ``group`` (a namespace), as if the runs that share had no workers; None: all.
    ``turn``: of equals, the lower one is first: the time when the run was created. ``headroom``:
    workers beyond those that there is room for, for an autoscaler to see.
    """

    run: K
    shape: Shape
    at_most: int
    weight: float = 1.0
    priority: int = 0
    holds: Mapping[str, int] = field(default_factory=dict)
    limit: Amounts | None = None
    group: Hashable = None
    turn: str = ""
    headroom: int = 0
    use: int | None = None

    @property
    def wanted(self) -> int:
        """Workers that it asks for and has use for."""
        return self.at_most if self.use is None else min(self.at_most, self.use)


@dataclass(frozen=True, slots=True)
class Share:
    """What a run gets. ``by_node``: where there is room for them. ``why``: why it is not more."""

    workers: int
    by_node: Mapping[str, int]
    why: str


def share(nodes: Sequence[Node], demands: Iterable[Demand[K]]) -> dict[K, Share]:
    """Share the nodes' free resources, which are to be as if no demand had any worker.

    Those of higher priority are served first. Among equals it is max-min fairness by weight: who
    has least for its weight gets the next worker, as long as there is one that it can use
    (progressive filling; Bertsekas and Gallager, "Data Networks", 1992, section 6.5.2). Nobody
    could get one more without another's getting one less, as far as whole workers fit on nodes.
    Everybody's first worker comes before anybody's second, whatever the weights: nobody starves.

    After that, workers that a run has no use for stay where nobody else has use for their places.
    """
    asking = sorted(demands, key=lambda each: (-each.priority, each.turn, repr(each.run)))
    table = _Table(nodes, asking)
    closed = _fill(table, asking, {each.run: each.wanted for each in asking})
    idle = [each for each in asking if each.wanted < min(each.at_most, sum(each.holds.values()))]
    if idle:
        _fill(table, idle, {each.run: sum(each.holds.values()) for each in idle}, new=False)
    return {each.run: table.result(each, closed[each.run]) for each in asking}


def _fill(
    table: _Table[K], asking: Sequence[Demand[K]], at_most: Mapping[K, int], *, new: bool = True
) -> dict[K, str]:
    """Place workers until nobody gets one more; why each does not. ``new``: anywhere at all."""
    closed: dict[K, str] = {}
    while len(closed) < len(asking):
        # The first of the highest priority that is not closed, and has least for its weight.
        now = [each for each in asking if each.run not in closed]
        now = [each for each in now if each.priority == now[0].priority]
        least = min(now, key=lambda each: _rank(table.workers(each), each.weight))
        reason = table.place(least, min(least.at_most, at_most[least.run]), new=new)
        if reason is not None:
            closed[least.run] = reason
    return closed


def _rank(workers: int, weight: float) -> tuple[bool, float]:
    return workers > 0, (workers + 1) / weight


class _Table(Generic[K]):
    """What is free, and who has been placed where."""

    def __init__(self, nodes: Sequence[Node], demands: Sequence[Demand[K]]) -> None:
        self._nodes = {node.name: node for node in sorted(nodes, key=lambda node: node.name)}
        self._free = {name: dict(node.free) for name, node in self._nodes.items()}
        self._placed: dict[K, Counter[str]] = {each.run: Counter() for each in demands}
        self._limits = {each.group: dict(each.limit) for each in demands if each.limit is not None}
        # Nodes that would take it, if they had room.
        self._open = {
            each.run: [name for name, node in self._nodes.items() if not refusal(node, each.shape)]
            for each in demands
        }
        # What those that are to stay where they are still need there.
        self._kept: dict[str, Counter[str]] = {name: Counter() for name in self._nodes}
        for each in demands:
            for name, count in each.holds.items():
                if name in self._kept:
                    for _ in range(count):
                        self._kept[name].update(_taking(each.shape))

    def workers(self, demand: Demand[K]) -> int:
        return self._placed[demand.run].total()

    def place(self, demand: Demand[K], at_most: int, *, new: bool) -> str | None:
        """Give the demand one more worker; or why it gets no more."""
        if self.workers(demand) >= at_most:
            return "" if demand.wanted == demand.at_most else "it has use for no more now"
        taking = _taking(demand.shape)
        limit = self._limits.get(demand.group)
        if limit is not None:
            for resource, amount in taking.items():
                if limit.get(resource, amount) < amount:
                    return f"the namespace's quota leaves no more {resource}"
        node = self._find(demand, new=new)
        if node is None:
            return self._full(demand)
        self._take(self._free[node], taking)
        if limit is not None:
            self._take(limit, taking)
        if self._placed[demand.run][node] < demand.holds.get(node, 0):
            self._kept[node].subtract(taking)
        self._placed[demand.run][node] += 1
        return None

    def _find(self, demand: Demand[K], *, new: bool) -> str | None:
        """Where the next worker goes: where it is already, where nobody is, or anywhere."""
        placed, requests = self._placed[demand.run], demand.shape.requests
        room = [name for name in self._open[demand.run] if fitting(self._free[name], requests)]
        for name in room:
            if placed[name] < demand.holds.get(name, 0):
                return name
        for beside in (self._kept, {}) if new else ():
            spare = [
                (fitting(_minus(self._free[name], beside.get(name, {})), requests), name)
                for name in room
            ]
            if fits := [each for each in spare if each[0] > 0]:
                # The fullest of them: larger workers of others may need the emptier ones.
                return min(fits)[1]
        return None

    def _full(self, demand: Demand[K]) -> str:
        could = room(self._nodes.values(), demand.shape)
        if could.workers > self.workers(demand):
            return f"of {could.workers} that there is room for, the others are other runs'"
        return could.why

    def _take(self, where: dict[str, int], taking: Amounts) -> None:
        for resource, amount in taking.items():
            if resource in where:
                where[resource] -= amount

    def result(self, demand: Demand[K], why: str) -> Share:
        """What it has in the end."""
        by_node = dict(self._placed[demand.run])
        count = sum(by_node.values())
        waiting = min(demand.headroom, demand.wanted - count)
        if waiting > 0:
            why += f"; {waiting} more wait for new nodes"
        return Share(count + max(0, waiting), {name: n for name, n in by_node.items() if n}, why)


def _taking(shape: Shape) -> Amounts:
    return {**shape.requests, PODS: 1}


def _minus(free: Amounts, kept: Mapping[str, int]) -> Amounts:
    return {name: amount - kept.get(name, 0) for name, amount in free.items()}
