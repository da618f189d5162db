"""When a phase is closed though some clients have not answered: enough have, or its time is up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable


class Quorum:
    """Of one phase. Called from the app's threads and from the event loop.

    ``enough``: so many answers close the phase; None: it takes all. ``deadline_s``: from now on.
    """

    def __init__(
        self,
        enough: int | None,
        deadline_s: float | None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enough = enough
        self.deadline_s = deadline_s
        self._monotonic = monotonic
        self._ends = None if deadline_s is None else monotonic() + deadline_s
        self._lock = threading.Lock()
        self._open: set[int] = set()
        self._answers = 0

    def left(self) -> float | None:
        """Seconds until the deadline, and 0 after it; None: there is none."""
        return None if self._ends is None else max(0.0, self._ends - self._monotonic())

    def asked(self, tasks: Iterable[int]) -> list[int]:
        """These are sent; those of them that nobody waits for, since the phase is closed."""
        with self._lock:
            tasks = list(tasks)
            if self._closed():
                return tasks
            self._open.update(tasks)
            return []

    def settled(self, task: int, answered: bool) -> list[int]:
        """A task is over; those that nobody waits for any more because of it."""
        with self._lock:
            self._open.discard(task)
            self._answers += answered
            return self._surplus()

    def late(self, updates: int = 1) -> list[int]:
        """Updates of an earlier phase have come, and count; those nobody waits for any more."""
        with self._lock:
            self._answers += updates
            return self._surplus()

    @property
    def wants(self) -> bool:
        """Whether more answers are needed than those that there are: of any number, one."""
        with self._lock:
            return not self._closed() if self.enough is not None else self._answers == 0

    @property
    def none(self) -> bool:
        """Whether there is no answer at all."""
        with self._lock:
            return self._answers == 0

    def _surplus(self) -> list[int]:
        if not self._closed():
            return []
        surplus = sorted(self._open)
        self._open.clear()
        return surplus

    def _closed(self) -> bool:
        return self.enough is not None and self._answers >= self.enough
