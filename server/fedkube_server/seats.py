"""Who may serve whom: any worker any client of a pool, a site's worker its own client alone."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from fedkube.core.errors import Rejected
from fedkube.core.run_states import RunEvent
from fedkube_server.halt import Ending, Halt

# A mean of one update is that update.
_LEAST = 2


class Seats:
    """The sites of a run by their partition, and which of them are there; none: a pool.

    ``minimum``: so many sites have to be connected before a round begins; None: all of them but
    for those that are banned. A run that bans leave with fewer than it needs is ended.
    """

    def __init__(self, sites: Sequence[str], minimum: int | None, halt: Halt) -> None:
        self.sites = tuple(sites)
        self._minimum = minimum
        self._needed = max(_LEAST, minimum or 0)
        self._halt = halt
        self._changed = threading.Condition()
        self._there: frozenset[int] = frozenset()
        self._banned: frozenset[int] = frozenset()
        halt.on_set(self._wake)

    def clients_of(self, certified: str, worker: str) -> frozenset[int] | None:
        """The clients that a worker may serve, by the name in its certificate; None: any.

        Rejected for a stranger, and for a site that is banned. A site has one worker, which goes by
        the site's name alone: of two that do, the newer takes the older one's place.
        """
        if not self.sites:
            return None
        if certified not in self.sites or worker != certified:
            raise Rejected(f"{worker!r} is none of the run's sites")
        client = self.sites.index(certified)
        if client in self._banned:
            raise Rejected(self._why(client))
        return frozenset({client})

    def ban(self, names: Iterable[str]) -> dict[int, str]:
        """Let these sites take part no more, and all others again; why, by their clients.

        Rejected where one is none of the run's sites.
        """
        banned = set()
        for name in names:
            if name not in self.sites:
                raise Rejected(f"{name!r} cannot be banned: it is none of the run's sites")
            banned.add(self.sites.index(name))
        with self._changed:
            self._banned = frozenset(banned)
            self._changed.notify_all()
        self._check()
        return {client: self._why(client) for client in banned}

    def need(self, clients: int) -> None:
        """The app can do nothing with fewer."""
        with self._changed:
            self._needed = max(self._needed, clients)
        self._check()

    def seated(self, clients: Iterable[int]) -> None:
        """These sites are connected now."""
        with self._changed:
            self._there = frozenset(clients)
            self._changed.notify_all()

    def wait(self) -> list[int]:
        """The sites that are connected, as soon as there are enough. Raises Halted."""
        with self._changed:
            # Who has just been banned may still be connected for a moment.
            while len(there := self._there - self._banned) < self._awaited():
                self._halt.check()
                self._changed.wait()
            self._halt.check()
            return sorted(there)

    @property
    def banned(self) -> list[str]:
        """The names of those that may not take part."""
        return [self.sites[client] for client in sorted(self._banned)]

    def absent(self) -> list[str]:
        """The names of those that could be connected, and are not."""
        with self._changed:
            gone = self._there | self._banned
            return [name for index, name in enumerate(self.sites) if index not in gone]

    def _why(self, client: int) -> str:
        return f"site {self.sites[client]} is banned from the run"

    def _awaited(self) -> int:
        return len(self.sites) - len(self._banned) if self._minimum is None else self._minimum

    def _check(self) -> None:
        """End a run that can have no further round, unless nobody is banned: then some may come."""
        left = len(self.sites) - len(self._banned)
        if self._banned and left < self._needed:
            message = (
                f"{left} of the run's {len(self.sites)} sites are left, as the others are banned, "
                f"and a round needs {self._needed}"
            )
            self._halt.set(Ending(RunEvent.BROKE, "SitesBanned", message))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
