"""Who may serve whom: any worker any client of a pool, a site's worker its own client alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from fedkube.core.errors import Rejected
from fedkube_server.halt import Halt


class Seats:
    """The sites of a run by their partition, and which of them are there; none: a pool.

    ``minimum``: so many sites have to be connected before a round begins; None: all of them.
    """

    def __init__(self, sites: Sequence[str], minimum: int | None, halt: Halt) -> None:
        self.sites = tuple(sites)
        self._minimum = len(self.sites) if minimum is None else minimum
        self._halt = halt
        self._changed = threading.Condition()
        self._there: frozenset[int] = frozenset()
        halt.on_set(self._wake)

    def clients_of(self, certified: str, worker: str) -> frozenset[int] | None:
        """The clients that a worker may serve, by the name in its certificate; None: any.

        Rejected for a stranger. A site has one worker, which goes by the site's name alone: of two
        that do, the newer takes the older one's place.
        """
        if not self.sites:
            return None
        if certified not in self.sites or worker != certified:
            raise Rejected(f"{worker!r} is none of the run's sites")
        return frozenset({self.sites.index(certified)})

    def seated(self, clients: Iterable[int]) -> None:
        """These sites are connected now."""
        with self._changed:
            self._there = frozenset(clients)
            self._changed.notify_all()

    def wait(self) -> list[int]:
        """The sites that are connected, as soon as there are enough. Raises Halted."""
        with self._changed:
            while len(self._there) < self._minimum:
                self._halt.check()
                self._changed.wait()
            self._halt.check()
            return sorted(self._there)

    def absent(self) -> list[str]:
        """The names of those that are not connected."""
        with self._changed:
            return [name for index, name in enumerate(self.sites) if index not in self._there]

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
