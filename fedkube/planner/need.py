"""How many workers a run has use for, as its rounds go. Pure but for the times it is told."""

from __future__ import annotations

from collections import deque

# Workers are not given up for a pause that is shorter: to start others takes longer than this.
PATIENCE_S = 30.0


class Need:
    """The most calls that were to be made at once within the last seconds.

    So a run whose workers idle between two rounds, or at the end of one, keeps them for a while.
    """

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        # What may still be the most, and since when nothing greater holds: each entry is greater
        # than all that follow it.
        self._noted: deque[tuple[float, int]] = deque()

    def note(self, at: float, calls: int) -> None:
        """So many calls are to be made from now on. ``at``: on a clock that only goes forward.

        None, before there were any, says nothing: a server is there before its app is.
        """
        if not calls and not self._noted:
            return
        since = at
        while self._noted and self._noted[-1][1] <= calls:
            since, _ = self._noted.pop()
        self._noted.append((since, calls))

    def most(self, at: float) -> int | None:
        """The most there were; None: nothing is known yet."""
        # An entry holds until the one after it does.
        while len(self._noted) > 1 and self._noted[1][0] <= at - self._patience_s:
            self._noted.popleft()
        return self._noted[0][1] if self._noted else None
