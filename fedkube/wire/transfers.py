"""Blobs on their way in: written where they will be used, and hashed as they come.

Bytes of a blob come in order, so whoever receives knows at any time how far
it got. After a cut it says so, and the sender goes on from there. A blob whose digest is wrong is
asked for again, that one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum

from blake3 import blake3

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import MAX_BLOBS, MAX_CORRUPT, STEP_BYTES
from fedkube.wire.tensors import check_digest

_OF_NOTHING = blake3().digest()

# Takes the bytes from an offset on.
Sink = Callable[[int, memoryview], None]


class Progress(Enum):
    """Where a blob is after a chunk."""

    MORE = "more is to come"
    WHOLE = "it is whole, and its digest is right"
    CORRUPT = "it has another digest than was announced, and is expected from its start again"
    STRAY = "nobody waits for it"


@dataclass(slots=True)
class _Arriving:
    blob: pb.Blob
    sink: Sink
    received: int = 0
    corrupt: int = 0
    hasher: blake3 = field(default_factory=blake3)


class Incoming:
    """Blobs that a peer has announced and is sending.

    A gap, an overlap, an odd cut or a byte too many breaks the session.
    """

    def __init__(self) -> None:
        self._arriving: dict[int, _Arriving] = {}

    def expect(self, blob: pb.Blob, sink: Sink) -> bool:
        """Wait for a blob; True if it is complete at once, being empty."""
        if blob.id in self._arriving:
            raise Rejected(f"blob {blob.id} was announced twice")
        if blob.nbytes == 0:
            return True
        self._arriving[blob.id] = _Arriving(blob, sink)
        return False

    def write(self, blob: int, offset: int, data: memoryview) -> Progress:
        """Bytes have come."""
        arriving = self._arriving.get(blob)
        if arriving is None:
            return Progress.STRAY  # of a task that was withdrawn meanwhile
        if offset != arriving.received:
            raise Rejected(
                f"blob {blob}: bytes from {offset} on came, and {arriving.received} was next"
            )
        left = arriving.blob.nbytes - offset
        if len(data) > left:
            raise Rejected(f"blob {blob}: more bytes came than were announced")
        if len(data) < left and len(data) % STEP_BYTES:
            raise Rejected(f"blob {blob}: a chunk of {len(data)} bytes, with {left} to come")
        arriving.sink(offset, data)
        arriving.hasher.update(data)
        arriving.received += len(data)
        if arriving.received < arriving.blob.nbytes:
            return Progress.MORE
        if arriving.hasher.digest() != arriving.blob.digest:
            return self._start_over(arriving)
        del self._arriving[blob]
        return Progress.WHOLE

    def _start_over(self, arriving: _Arriving) -> Progress:
        arriving.corrupt += 1
        if arriving.corrupt == MAX_CORRUPT:
            raise Rejected(
                f"blob {arriving.blob.id} came {MAX_CORRUPT} times, and never with the digest "
                "that was announced"
            )
        arriving.received = 0
        arriving.hasher = blake3()
        return Progress.CORRUPT

    def forget(self, blobs: Iterable[int]) -> None:
        """Nobody waits for these any more; what still comes of them is dropped."""
        for blob in blobs:
            self._arriving.pop(blob, None)

    @property
    def waiting(self) -> int:
        """How many blobs are not whole yet."""
        return len(self._arriving)

    def wants(self) -> list[pb.Want]:
        """The blobs that are not whole, and from where on their bytes are missing."""
        return [pb.Want(blob=key, offset=each.received) for key, each in self._arriving.items()]


def check_announced(blobs: Iterable[pb.Blob], limit: int) -> int:
    """The bytes that announced blobs take; Rejected beyond the limits, before any is allocated."""
    total = 0
    for count, blob in enumerate(blobs, 1):
        if count > MAX_BLOBS:
            raise Rejected(f"more than {MAX_BLOBS} blobs in one message")
        check_digest(blob.digest)
        if not blob.nbytes and blob.digest != _OF_NOTHING:
            raise Rejected(f"blob {blob.id}: an empty blob has another digest")
        total += blob.nbytes
        if total > limit:
            raise Rejected(f"a message of more than {limit} bytes")
    return total
