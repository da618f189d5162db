"""How long calls take, learned from those that have ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

# Shorter ones are given out several at a time, in the order of the app.
_LONG_S = 1.0
# What a new duration counts beside those before it.
_NEWEST = 0.5

T = TypeVar("T")


class Durations:
    """Seconds by pace: the messages of one pace take a client about as long each time."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._of_clients: dict[tuple[str, int], float] = {}

    def note(self, pace: str, clients: Iterable[int], seconds: float) -> None:
        """Calls of these clients took so long each."""
        self._last[pace] = seconds
        if seconds < _LONG_S:
            return
        for client in clients:
            before = self._of_clients.get((pace, client), seconds)
            self._of_clients[pace, client] = _NEWEST * seconds + (1 - _NEWEST) * before

    def last(self, pace: str) -> float | None:
        """What a call of this pace took last; None where none has ended."""
        return self._last.get(pace)

    def longest_first(self, tasks: Sequence[T], key: Callable[[T], tuple[str, int]]) -> list[T]:
        """In the order in which a round ends soonest, as far as is known: the others in between.

        A long call that begins last has everybody wait for it (LPT; R. L. Graham, "Bounds on
        multiprocessing timing anomalies", 1969). ``key``: a task's pace and client. Those of which
        nothing is known are taken to be as long as the last call.
        """
        if not self._of_clients:
            return list(tasks)

        def seconds(task: T) -> float:
            pace, client = key(task)
            return self._of_clients.get((pace, client), self._last.get(pace, 0.0))

        return sorted(tasks, key=seconds, reverse=True)  # which keeps the order of equals
