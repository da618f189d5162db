"""Shared memory between an agent and its executor: anonymous files that leave nothing behind.

A segment is a file without a name. Its descriptor passes over the socket between the two processes,
and the kernel frees it when the last of them is gone, however it went.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from fedkube.proto.v1 import executor_pb2 as xpb

# Of a worker's cache, where nobody says more or less.
CACHE_BYTES = 2 * 1024**3


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

    def sink(self, start: int) -> Callable[[int, memoryview], None]:
        """Writes bytes from ``start`` on. To new memory that is faster than through the mapping."""

        def write(offset: int, data: memoryview) -> None:
            at = start + offset
            while data:
                count = os.pwrite(self.descriptor, data, at)
                data, at = data[count:], at + count

        return write

    def close_descriptor(self) -> None:
        """The mapping is enough; a process may have only so many descriptors."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            self.close_descriptor()

    def close(self) -> None:
        """Give up this process's hold. Arrays that still look into it keep the mapping alive."""
        self.close_descriptor()
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


# A segment that so many tasks in a row had no use for holds a model of the past.
_IDLE_TASKS = 3


class SegmentCache:
    """Blobs by digest, in segments, until they are not used any more.

    ``limit``: bytes that may be held. Beyond it, the least recently used segments go first. What a
    running task uses is never dropped, so one task's arrays may go beyond the limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._segments: OrderedDict[int, Segment] = OrderedDict()
        self._places: dict[bytes, xpb.Place] = {}
        self._digests: dict[int, list[bytes]] = {}
        self._next = 1
        self._tasks = 0
        self._used: dict[int, int] = {}  # segment to the last task that used it

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
        self._used[number] = self._tasks
        for digest, offset, nbytes in blobs:
            self._digests[number].append(digest)
            self._places[digest] = xpb.Place(segment=number, offset=offset, nbytes=nbytes)

    def descriptor(self, number: int) -> tuple[int, int]:
        """A segment's descriptor and size."""
        segment = self._segments[number]
        return segment.descriptor, segment.nbytes

    def view(self, place: xpb.Place) -> memoryview:
        """A blob's bytes, for as long as anyone looks at them."""
        segment = self._segments[place.segment]
        return segment.view[place.offset : place.offset + place.nbytes]

    def shrink(self, used: Iterable[int]) -> list[int]:
        """A task uses these segments: drop others that are stale or too many; what was dropped."""
        self._tasks += 1
        self._used |= dict.fromkeys(used, self._tasks)
        dropped = []
        for number in list(self._segments):
            idle = self._tasks - self._used[number]
            if idle > _IDLE_TASKS or (idle and self.nbytes > self.limit):
                self._drop(number)
                dropped.append(number)
        return dropped

    def close(self) -> None:
        """Drop everything."""
        for number in list(self._segments):
            self._drop(number)

    def _drop(self, number: int) -> None:
        segment = self._segments.pop(number)
        self._used.pop(number, None)
        self.nbytes -= segment.nbytes
        for digest in self._digests.pop(number):
            place = self._places.get(digest)
            if place is not None and place.segment == number:
                del self._places[digest]
        segment.close()
