"""How many workers an accelerator takes, found by looking at it while they work. Pure."""

from __future__ import annotations

from collections import deque
from typing import Literal

from fedkube.core.accelerators import Reading

# What a user says who leaves the number to be found.
AUTO: Literal["auto"] = "auto"
# More than these on one accelerator are not tried.
AUTO_MOST = 16
# Between two readings.
LOOK_S = 1.0
# A worker that was started shows within this time what it takes, if its clients come at once.
SETTLE_S = 10.0
# Of the memory, what is left to what nobody foresees.
SPARE = 0.1
# An accelerator that computes for so much of the time has nothing for one more: kernels of several
# processes take turns.
BUSY = 0.9
# As much of what it is thought to take has a worker to have taken before there are more.
_SHOWN = 0.6
# Less than that is nobody's model.
_LEAST_BYTES = 64 * 1024 * 1024
# Memory that rises by less has settled.
_RISES = 1.02


class Packing:
    """Of one accelerator: it has one worker, and is given more as long as they fit.

    As many at a time as there are, so that it does not take long; each time only when what those
    before take has been seen. What turns out to be too many are told of by ``left``.

    ``most``: of workers. ``empty_bytes``: that are used before there is any.
    """

    def __init__(self, most: int, empty_bytes: int = 0) -> None:
        self.most = most
        self.empty_bytes = empty_bytes
        self._there = 1
        self._each = 0.0  # bytes that one has taken, at the most
        self._peak = 0  # since there are so many
        self._settled_at: float | None = None
        self._busy: deque[tuple[float, float]] = deque()

    @property
    def each_bytes(self) -> int:
        """What one worker takes, as far as it was seen."""
        return round(self._each)

    @property
    def found(self) -> bool:
        """Whether there will be no more."""
        return self._there >= self.most

    def left(self, there: int) -> None:
        """Memory ran out, and so many are left: that is how many it takes."""
        self._there = self.most = max(1, there)

    def look(self, at: float, reading: Reading) -> int:
        """How many more are to be started now. ``at``: seconds that never jump."""
        if self._settled_at is None:
            self._settled_at = at + SETTLE_S
        if reading.busy is not None:
            self._busy.append((at, reading.busy))
        while self._busy and self._busy[0][0] < at - SETTLE_S:
            self._busy.popleft()
        if reading.used_bytes > self._peak * _RISES:
            self._settled_at = at + SETTLE_S
        self._peak = max(self._peak, reading.used_bytes)
        taken = max(0, self._peak - self.empty_bytes) / self._there
        shown = taken >= max(_LEAST_BYTES, _SHOWN * self._each)
        self._each = max(self._each, taken)
        if self.found or at < self._settled_at or not shown or self._is_busy():
            return 0
        # Those that have not shown it yet take as much as the others.
        used = max(self._peak, self.empty_bytes + self._each * self._there)
        room = reading.total_bytes * (1 - SPARE) - used
        more = min(int(room // self._each), self._there, self.most - self._there)
        if more > 0:
            self._there += more
            self._peak, self._settled_at = 0, at + SETTLE_S
            self._busy.clear()
        return max(0, more)

    def _is_busy(self) -> bool:
        return bool(self._busy) and sum(busy for _, busy in self._busy) / len(self._busy) >= BUSY
