"""How many bytes may be under way to the server: no more than keep it busy.

What is under way when a link is cut is sent again, and what the server has not looked at yet waits
in its memory. gRPC's own window grows to several megabytes, and cannot be told otherwise for near
peers alone. So a near server is sent one frame at a time, the next one while it works on the last.
A far one is sent another before that, and as much more as its link carries in twice the time that
a frame takes there and back, as by Cardwell et al., "BBR: Congestion-Based Congestion Control"
(2016).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import CHUNK_BYTES, NEAR_S, RECEIVED_BYTES

# BBR's gain: room for what has arrived and is not known to have.
_GAIN = 2.0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A frame: when it went, and the bytes sent with it and received without it."""

    at: float
    sent: int
    received: int


class Window:
    """What one stream has under way. ``clock``: seconds that never jump."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sent = 0
        self._received = 0
        self._under_way: deque[_Sent] = deque()
        self._probes = 0
        self._asked_at: float | None = None
        self._round_trip_s: float | None = None
        self._bytes_per_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether another data frame may go."""
        # The server says nothing of the last RECEIVED_BYTES, so they are never waited for.
        return self._sent - self._received < RECEIVED_BYTES + self._more()

    def _more(self) -> float:
        """What a far link is to hold besides: a slow one needs a chunk to follow the other."""
        if self._round_trip_s is None or self._round_trip_s < NEAR_S:
            return 0.0
        return CHUNK_BYTES + _GAIN * self._bytes_per_s * self._round_trip_s

    def sent(self, nbytes: int) -> None:
        """A data frame goes."""
        self._sent += nbytes
        self._under_way.append(_Sent(self._clock(), self._sent, self._received))

    def probe(self) -> pb.Probe | None:
        """What to ask the server before a large upload; None while an answer is on its way."""
        if self._asked_at is not None:
            return None
        self._probes += 1
        self._asked_at = self._clock()
        return pb.Probe(number=self._probes)

    def received(self, said: pb.Received) -> None:
        """The server has said how far the frames have come; Rejected where that cannot be."""
        if not self._received <= said.bytes <= self._sent:
            raise Rejected(f"{said.bytes} bytes were received, of {self._sent} that were sent")
        now = self._clock()
        if self._asked_at is not None and said.probe == self._probes:
            self._took(now - self._asked_at)
            self._asked_at = None
        self._received = said.bytes
        newest = None
        while self._under_way and self._under_way[0].sent <= said.bytes:
            newest = self._under_way.popleft()
        if newest is not None and now > newest.at:
            self._took(now - newest.at)
            rate = (said.bytes - newest.received) / (now - newest.at)
            self._bytes_per_s = max(self._bytes_per_s, rate)

    def _took(self, seconds: float) -> None:
        """There and back, at the most: either end may have been busy."""
        if self._round_trip_s is None or seconds < self._round_trip_s:
            self._round_trip_s = seconds
