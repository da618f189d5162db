"""Shared memory between an agent and its executor: anonymous files that leave nothing behind.

A segment is a file without a name. Its descriptor passes over the socket between the two processes,
and the kernel frees it when the last of them is gone, however it went.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from fedkube.proto.v1 import executor_pb2 as xpb


class Segment:
    """Bytes that two processes see. ``view`` covers exactly ``nbytes``."""

    def __init__(self, descriptor: int, nbytes: int) -> None:
        self.descriptor = descriptor
        self.nbytes = nbytes
        self._map = mmap.mmap(descriptor, max(nbytes, 1))
        self.view = memoryview(self._map)[:nbytes]

    @classmethod
    def create(cls, nbytes: int) -> Segment:
        """A new one, all zeros; it takes memory as it is written."""
        descriptor = _anonymous_file()
        os.ftruncate(descriptor, max(nbytes, 1))
        return cls(descriptor, nbytes)

    def close(self) -> None:
        """Give up this process's hold. Arrays that still look into it keep the mapping alive."""
        os.close(self.descriptor)
        self.view.release()
        try:
            self._map.close()
        except BufferError:
            pass  # freed with the last array that is a view of it


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("fedkube", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def layout(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Offsets for blobs of these sizes in one segment, aligned for any element, and its size."""
    offsets = []
    end = 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // 64) * 64
    return offsets, end


class SegmentCache:
    """Blobs by digest, in segments; the least recently used segments go when there are too many.

    ``limit``: bytes that may be held. What a running task uses is never dropped, so one task's
    arrays may go beyond it.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._places: dict[bytes, xpb.Place] = {}
        self._digests: dict[int, list[bytes]] = {}
        self._next = 1

    def find(self, digest: bytes) -> xpb.Place | None:
        """Where the blob is, if it is here."""
        place = self._places.get(digest)
        if place is not None:
            self._segments.move_to_end(place.segment)
        return place

    def add(self, segment: Segment, blobs: Iterable[tuple[bytes, int, int]]) -> None:
        """Take a segment whose blobs (digest, offset, bytes) are whole."""
        number, self._next = self._next, self._next + 1
        self._segments[number] = segment
        self.nbytes += segment.nbytes
        self._digests[number] = []
        for digest, offset, nbytes in blobs:
            self._digests[number].append(digest)
            self._places[digest] = xpb.Place(segment=number, offset=offset, nbytes=nbytes)

    def descriptor(self, number: int) -> tuple[int, int]:
        """A segment's descriptor and size."""
        segment = self._segments[number]
        return segment.descriptor, segment.nbytes

    def shrink(self, keep: Iterable[int]) -> list[int]:
        """Drop what is over the limit, but for the segments in ``keep``; what was dropped."""
        kept = set(keep)
        dropped = []
        for number in list(self._segments):
            if self.nbytes <= self.limit:
                break
            if number not in kept:
                self._drop(number)
                dropped.append(number)
        return dropped

    def close(self) -> None:
        """Drop everything."""
        for number in list(self._segments):
            self._drop(number)

    def _drop(self, number: int) -> None:
        segment = self._segments.pop(number)
        self.nbytes -= segment.nbytes
        for digest in self._digests.pop(number):
            place = self._places.get(digest)
            if place is not None and place.segment == number:
                del self._places[digest]
        segment.close()
