"""How many workers each elastic pool has now: what the cluster has for them, shared among runs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from fedkube.coordinator.objects import Defaults, Object, Run, worker_jobs
from fedkube.coordinator.supply import Key, View
from fedkube.planner import kubernetes
from fedkube.planner.need import Need
from fedkube.planner.sharing import Demand, Share, share
from fedkube.planner.supply import Shape

# Changes that come together are one; and a cluster with many pods changes all the time.
_PACE_S = 0.5
_TICK_S = 2.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What a run wants. ``use``: pods that it has use for; None: not known yet."""

    run: Run
    shape: Shape
    use: int | None = None

    @property
    def most(self) -> int:
        """More workers than that it does not ask for."""
        pool = self.run.spec.pool
        return pool.most_workers if pool is not None else 0


def shares(view: View, wishes: Mapping[Key, Wish], headroom: int) -> dict[Key, Share]:
    """What each run has of the cluster."""
    asked = {name for wish in wishes.values() for name in wish.shape.requests}
    return share(
        view.without(wishes.keys(), asked),
        [
            Demand(
                run=key,
                shape=wish.shape,
                at_most=wish.most,
                weight=wish.run.spec.sharing.weight,
                priority=wish.run.spec.sharing.priority,
                holds=view.held(key),
                limit=view.left(key[0], wishes.keys()),
                group=key[0],
                turn=wish.run.created,
                headroom=headroom,
                use=wish.use,
            )
            for key, wish in wishes.items()
        ],
    )


class Sight(Protocol):
    """Of what the cluster has: a Supply, but for tests."""

    @property
    def blind(self) -> bool:
        """Whether the rights to see it are missing."""

    def view(self) -> View | None:
        """What there is now; None as long as it is not known."""


class Elastic:
    """Keeps the shares of the runs that go on, on one event loop.

    ``headroom``: workers of a run beyond those that there is room for. ``look_at``: called for a
    run with another share.
    """

    def __init__(self, supply: Sight, headroom: int = 0) -> None:
        self._supply = supply
        self._headroom = headroom
        self.look_at: Callable[[Key], None] = lambda _: None
        self._runs: dict[Key, tuple[Run, Need]] = {}
        self._shares: dict[Key, Share] = {}
        self._known = False
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Share anew whenever something has changed, for ever."""
        while True:
            # What runs have use for becomes less by waiting alone.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), _TICK_S)
            self._changed.clear()
            if self._runs:
                self.share_out()
            await asyncio.sleep(_PACE_S)

    def changed(self) -> None:
        """There is something else in the cluster than before."""
        self._changed.set()

    def want(self, key: Key, run: Run, need: Need, has: int) -> Share | None:
        """What the run has now; None: as much as it asks for, since nobody can see what there is.

        ``has``: the workers that it had so far.
        """
        view = self._supply.view()
        pool = run.spec.pool
        hidden = view is not None and pool is not None and view.hides(pool.pod.accelerators)
        if self._supply.blind or hidden:
            self.leave(key)
            return None
        self._runs[key] = run, need
        self.share_out()
        if not self._known:
            return Share(has, {}, "the cluster's nodes are not known yet")
        return self._shares[key]

    def leave(self, key: Key) -> None:
        """The run wants nothing any more."""
        if self._runs.pop(key, None) is not None:
            self.share_out()

    def share_out(self) -> None:
        """Share anew, and have those looked at who have another share now."""
        view = self._supply.view()
        self._known = view is not None
        if view is None:
            return
        before, now = self._shares, time.monotonic()
        wishes = {
            key: Wish(
                run, shape_of(run, view.limits.get(key[0], ())), _pods_for(run, need.most(now))
            )
            for key, (run, need) in self._runs.items()
        }
        self._shares = shares(view, wishes, self._headroom)
        for key, found in self._shares.items():
            if found != before.get(key):
                self.look_at(key)


def _pods_for(run: Run, calls: int | None) -> int | None:
    """Workers that a run has use for when it makes so many calls at once."""
    pool = run.spec.pool
    return calls if calls is None or pool is None else pool.pods_for(calls)


def shapes_of(run: Run, limit_ranges: Iterable[Object] = ()) -> dict[str, Shape]:
    """What a worker of each of the run's Jobs asks of a node, by the Job's name.

    ``limit_ranges``: of the run's namespace.
    """
    jobs = worker_jobs(run, Defaults(image=""))
    return {
        job["metadata"]["name"]: kubernetes.shape_of(job["spec"]["template"], limit_ranges)
        for job in jobs
    }


def shape_of(run: Run, limit_ranges: Iterable[Object] = ()) -> Shape:
    """The same of a pool, which has one Job."""
    (shape,) = shapes_of(run, limit_ranges).values()
    return shape
