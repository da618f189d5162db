"""Updates that come when their phase is closed: who is at one, and which have come.

What Nguyen et al. 2022, "Federated learning with buffered asynchronous aggregation", calls the
buffer, and the staleness of what is in it. The sum itself is ``folds``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from fedkube_server.calls import Answer
from fedkube_server.folds import Late


@dataclass(frozen=True, slots=True)
class Away:
    """A client that is still at the message of a round that is over. ``task``: that message's."""

    task: int
    round: int


@dataclass(frozen=True, slots=True)
class Come:
    """An update that has come late. ``turn`` and ``asked``: as the journal knows the message.

    ``round``: whose message it was; ``group``: the message's.
    """

    client: int
    turn: int
    asked: bytes
    round: int
    group: str
    answer: Answer
    late: Late


class LateUpdates:
    """Of one run. Called from the app's threads and from the event loop.

    ``exponent``: of the weight. ``most``: rounds after which an update counts no more.
    """

    def __init__(self, exponent: float, most: int) -> None:
        self._exponent = exponent
        self._most = most
        self._lock = threading.Lock()
        self._away: dict[int, Away] = {}
        self._come: list[Come] = []

    def share(self, rounds: int) -> float:
        """How much counts of what an update changed that is so many rounds late; 0: too many."""
        return float((1 + rounds) ** -self._exponent) if rounds <= self._most else 0.0

    def left(self, client: int, away: Away) -> None:
        """A phase is closed while the client is at its message."""
        with self._lock:
            self._away[client] = away

    def away(self, client: int) -> Away | None:
        """What the client is still at."""
        with self._lock:
            return self._away.get(client)

    def gone(self, client: int) -> None:
        """The client will not answer that message any more."""
        with self._lock:
            self._away.pop(client, None)

    def came(self, come: Come) -> None:
        """It has."""
        with self._lock:
            self._away.pop(come.client, None)
            self._come.append(come)

    def too_old(self, now: int) -> list[int]:
        """Tasks whose updates would not count any more in this round or in a later one."""
        with self._lock:
            away = list(self._away.values())
        return [each.task for each in away if not self.share(now - each.round)]

    def all_away(self) -> list[int]:
        """All tasks whose updates may still come."""
        with self._lock:
            return [each.task for each in self._away.values()]

    def take(self) -> list[Come]:
        """What has come since it was taken last, in an order of its own."""
        with self._lock:
            come, self._come = self._come, []
        return sorted(come, key=lambda each: (each.client, each.turn))

    @property
    def waiting(self) -> int:
        """How many have come and were not taken."""
        with self._lock:
            return len(self._come)

    @property
    def coming(self) -> bool:
        """Whether there is any that may still come."""
        with self._lock:
            return bool(self._away)
