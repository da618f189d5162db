"""Blobs on their way in: bytes are written where they will be used, and hashed as they come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from blake3 import blake3

from fedkube.core.errors import Rejected
from fedkube.proto.v1 import exchange_pb2 as pb
from fedkube.wire.limits import MAX_BLOBS
from fedkube.wire.tensors import check_digest


@dataclass(slots=True)
class _Arriving:
    blob: pb.Blob
    into: memoryview
    received: int = 0
    hasher: blake3 = field(default_factory=blake3)


class Incoming:
    """Blobs that a peer has announced and is sending.

    A blob's bytes come in order; a gap, an overlap or a byte too many breaks the session.
    """

    def __init__(self) -> None:
        self._arriving: dict[int, _Arriving] = {}

    def expect(self, blob: pb.Blob, into: memoryview) -> bool:
        """Wait for a blob and put it ``into``; True if it is complete at once, being empty."""
        if len(into) != blob.nbytes:
            raise Rejected(f"blob {blob.id} was announced with {blob.nbytes} bytes")
        if blob.id in self._arriving:
            raise Rejected(f"blob {blob.id} was announced twice")
        arriving = _Arriving(blob, into)
        if blob.nbytes == 0:
            _verify(arriving)
            return True
        self._arriving[blob.id] = arriving
        return False

    def write(self, blob: int, offset: int, data: memoryview) -> bool:
        """Bytes have come; True when the blob is whole and its digest is right."""
        arriving = self._arriving.get(blob)
        if arriving is None:
            return False  # of a task that was withdrawn meanwhile
        if offset != arriving.received:
            raise Rejected(
                f"blob {blob}: bytes from {offset} on came, and {arriving.received} was next"
            )
        end = offset + len(data)
        if end > arriving.blob.nbytes:
            raise Rejected(f"blob {blob}: more bytes came than were announced")
        arriving.into[offset:end] = data
        arriving.hasher.update(data)
        arriving.received = end
        if end < arriving.blob.nbytes:
            return False
        del self._arriving[blob]
        _verify(arriving)
        return True

    def forget(self, blobs: Iterable[int]) -> None:
        """Nobody waits for these any more; what still comes of them is dropped."""
        for blob in blobs:
            self._arriving.pop(blob, None)

    @property
    def waiting(self) -> int:
        """How many blobs are not whole yet."""
        return len(self._arriving)


def check_announced(blobs: Iterable[pb.Blob], limit: int) -> int:
    """The bytes that announced blobs take; Rejected beyond the limits, before any is allocated."""
    total = 0
    for count, blob in enumerate(blobs, 1):
        if count > MAX_BLOBS:
            raise Rejected(f"more than {MAX_BLOBS} blobs in one message")
        check_digest(blob.digest)
        total += blob.nbytes
        if total > limit:
            raise Rejected(f"a message of more than {limit} bytes")
    return total


def _verify(arriving: _Arriving) -> None:
    if arriving.hasher.digest() != arriving.blob.digest:
        raise Rejected(f"blob {arriving.blob.id}: the bytes do not have the announced digest")
