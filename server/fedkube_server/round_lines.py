"""The rounds that are on the disk, as watchers are told of them."""

from __future__ import annotations

import itertools
from collections import deque

from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.store.history import Round

# A watcher that comes late is told of so many; all of them are in the history.
KEPT = 1000
# How long a round takes is told from so many.
_RECENT = 5


class RoundLines:
    """The newest of them.

    ``count``: of all there were; ``trained``: without round 0. ``seconds``: of the newest few.
    """

    def __init__(self) -> None:
        self.count = 0
        self.trained = 0
        self.seconds: deque[float] = deque(maxlen=_RECENT)
        self._lines: deque[tuple[pb.RoundLine, bool]] = deque(maxlen=KEPT)

    def note(self, entry: Round) -> None:
        """One is on the disk, or is so once more."""
        again = bool(self._lines) and self._lines[-1][0].round == entry.round
        if again:
            self._lines.pop()
        else:
            self.count += 1
        self._lines.append((_line(entry), entry.counted))
        if entry.round == 0:
            return
        if again:
            self.seconds.pop()
        else:
            self.trained += 1
        self.seconds.append(entry.seconds)

    def since(self, seen: int) -> list[pb.RoundLine]:
        """Those after the first ``seen`` that anything came of, or the newest of them."""
        new = min(self.count - seen, len(self._lines))
        lines = itertools.islice(self._lines, len(self._lines) - new, None)
        return [line for line, counted in lines if counted]


def _line(entry: Round) -> pb.RoundLine:
    phases = entry.phases.values()
    return pb.RoundLine(
        round=entry.round,
        seconds=entry.seconds,
        clients=max((len(phase.clients) for phase in phases), default=0),
        failures=len(entry.failed()),
        late=sum(len(phase.stale) for phase in phases),
        not_needed=sum(not each.needed for phase in phases for each in phase.failures),
        metrics=[pb.Metric(name=name, value=value) for name, value in entry.flat_metrics().items()],
    )
